// linear, embed and the packing of weights, against double precision and by bits.
#include "cpu-fixture.h"

namespace pagoda::test {
namespace {

struct LinearCase {
  int32_t rows;
  int32_t inputs;
  int32_t outputs;
  PagodaDtype dtype;
  bool bias;
};

std::string describe(const std::string& isa, const LinearCase& c) {
  return text("%s linear rows %d inputs %d outputs %d %s%s", isa.c_str(), c.rows, c.inputs, c.outputs,
              c.dtype == PAGODA_BF16 ? "bf16" : "f32", c.bias ? " bias" : "");
}

// Only avx512 rounds the activations of bf16 weights.
float asMultiplied(const std::string& isa, PagodaDtype dtype, float x) {
  return dtype == PAGODA_BF16 && isa == "avx512" ? roundBf16(x) : x;
}

void testCase(Device& device, const std::string& isa, const LinearCase& c) {
  section(describe(isa, c));
  Random random(c.rows * 131 + c.inputs * 17 + c.outputs);
  const int64_t xStride = c.inputs + 3;
  const int64_t outStride = c.outputs + 5;
  Guarded x(random.floats(c.rows * xStride));
  Guarded out(c.rows * outStride);
  const std::vector<float> w = random.floats(static_cast<size_t>(c.outputs) * c.inputs);
  const std::vector<float> b = random.floats(c.outputs);
  Weight weight(device, PAGODA_MATRIX, c.dtype, c.outputs, c.inputs, w);
  Weight bias(device, PAGODA_VECTOR, PAGODA_F32, 1, c.outputs, b);
  device.run<PagodaLinear>(device.api->linear, {.out = tensorOf(out, c.rows, c.outputs, outStride),
                                                .x = tensorOf(x, c.rows, c.inputs, xStride),
                                                .weight = weight.weight,
                                                .bias = c.bias ? bias.weight : kNoWeight});
  CHECK(out.intact());
  double worst = 0;
  for (int32_t r = 0; r < c.rows; ++r) {
    for (int32_t n = 0; n < c.outputs; ++n) {
      double sum = c.bias ? b[n] : 0;
      for (int32_t k = 0; k < c.inputs; ++k) {
        const float value = w[static_cast<size_t>(n) * c.inputs + k];
        sum += static_cast<double>(asMultiplied(isa, c.dtype, x[r * xStride + k])) *
               (c.dtype == PAGODA_BF16 ? roundBf16(value) : value);
      }
      const double difference = std::fabs(out[r * outStride + n] - sum);
      worst = difference <= worst ? worst : difference;  // keeps NaN out of `worst <=`
    }
    for (int64_t n = c.outputs; n < outStride; ++n)
      CHECK(std::isnan(out[r * outStride + n]), "row %d wrote %d", r, (int)n);
  }
  CHECK(worst <= 3e-7 * (4 + c.inputs / 4.0), "worst difference %g", worst);
}

// A row alone has the bits that it has among others, on any number of threads.
void testInvariance(const std::string& isa, PagodaDtype dtype, int32_t inputs, int32_t outputs) {
  section(text("%s linear invariance %d %d", isa.c_str(), inputs, outputs));
  constexpr int32_t kRows = 70;
  Device two(isa.c_str(), 2);
  Device one(isa.c_str(), 1);
  Random random(7);
  Guarded x(random.floats(kRows * inputs));
  Guarded together(kRows * outputs);
  Guarded alone(kRows * outputs);
  Weight weight(two, PAGODA_MATRIX, dtype, outputs, inputs, random.floats(static_cast<size_t>(outputs) * inputs));
  two.run<PagodaLinear>(two.api->linear, {.out = tensorOf(together, kRows, outputs),
                                          .x = tensorOf(x, kRows, inputs),
                                          .weight = weight.weight,
                                          .bias = kNoWeight});
  int32_t rows = 1;
  for (int32_t first = 0; first < kRows; first += rows, rows = std::min(rows + 1, kRows - first)) {
    one.run<PagodaLinear>(one.api->linear, {.out = tensorAt(alone.data() + first * outputs, rows, outputs),
                                            .x = tensorAt(x.data() + first * inputs, rows, inputs),
                                            .weight = weight.weight,
                                            .bias = kNoWeight});
  }
  CHECK(sameBits(together.data(), alone.data(), together.size()));
}

void testLinear(const std::string& isa) {
  Device device(isa.c_str(), 2);
  for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16}) {
    for (int32_t width : {1, 3, 17, 64, 65}) {
      for (int32_t rows : {0, 1, 2, 3, 5, 7, 13}) {
        testCase(device, isa, {rows, width, 66 - width, dtype, true});
        testCase(device, isa, {rows, 1 + 2 * width, width, dtype, false});
      }
    }
    testCase(device, isa, {70, 129, 200, dtype, true});
    testCase(device, isa, {1, 4099, 33, dtype, false});
    testCase(device, isa, {6, 2050, 70, dtype, true});
    testCase(device, isa, {500, 65, 10, dtype, true});
    testInvariance(isa, dtype, 65, 130);
    testInvariance(isa, dtype, 2101, 17);
  }
}

// ---- packing ---------------------------------------------------------------------------------------

uint16_t halfBits(float x) {  // exact for the values used here
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) == 0) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>(((bits >> 16) & 0x8000u) | ((((bits >> 23) & 0xffu) - 112u) << 10) |
                               ((bits >> 13) & 0x3ffu));
}

// All three source types give the same packed bytes, whole or in parts, where the values are exact in each.
void testSources(Device& device, PagodaWeightKind kind, PagodaDtype dtype, int32_t rows, int32_t cols) {
  section(text("packing kind %d dtype %d %dx%d", kind, dtype, rows, cols));
  Random random(rows);
  std::vector<float> values(static_cast<size_t>(rows) * cols);
  for (float& value : values) value = static_cast<float>(random.below(129) - 64) / 16;
  std::vector<uint16_t> bf16(values.size());
  std::vector<uint16_t> f16(values.size());
  for (size_t i = 0; i < values.size(); ++i) bf16[i] = floatToBf16(values[i]);
  for (size_t i = 0; i < values.size(); ++i) f16[i] = halfBits(values[i]);
  const Weight whole(device, kind, dtype, rows, cols, values);
  Weight parts(device, kind, dtype, rows, cols);
  Weight halves(device, kind, dtype, rows, cols);
  const int32_t middle = rows / 3;
  parts.fill(device, middle, rows - middle, bf16.data() + static_cast<size_t>(middle) * cols, PAGODA_BF16);
  parts.fill(device, 0, middle, bf16.data(), PAGODA_BF16);
  halves.fill(device, 0, 0, f16.data(), PAGODA_F16);
  halves.fill(device, 0, rows, f16.data(), PAGODA_F16);
  CHECK(whole.memory() == parts.memory());
  CHECK(whole.memory() == halves.memory());
}

float packedValue(Device& device, PagodaDtype dtype, const void* source, PagodaDtype sourceDtype) {
  Weight weight(device, PAGODA_TABLE, dtype, 1, 1);
  weight.fill(device, 0, 1, source, sourceDtype);
  uint32_t bits = 0;
  std::memcpy(&bits, weight.weight.data, dtype == PAGODA_BF16 ? 2 : 4);
  if (dtype == PAGODA_BF16) bits <<= 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void testConversions(Device& device) {
  section("conversions");
  for (uint32_t bits = 0; bits < 0x10000; bits += (bits & 0x3ff) == 3 ? 0x3fb : 1) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const int exponent = (half >> 10) & 31;
    const int mantissa = half & 1023;
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = mantissa == 0 ? INFINITY : NAN;
    if ((half & 0x8000) != 0) expected = -expected;
    const float received = packedValue(device, PAGODA_F32, &half, PAGODA_F16);
    CHECK(std::isnan(expected) ? std::isnan(received) : received == expected, "f16 %04x: %g, expected %g", bits,
          received, expected);
  }
  const struct {
    uint32_t from;
    uint16_t to;
  } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
               {0x7f7fffff, 0x7f80}, {0xff800000, 0xff80}, {0x80000001, 0x8000}};
  for (const auto& c : cases) {
    float value;
    std::memcpy(&value, &c.from, sizeof value);
    CHECK(floatToBf16(packedValue(device, PAGODA_BF16, &value, PAGODA_F32)) == c.to, "from %08x", c.from);
  }
  for (uint32_t nan : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0x7fc00000u}) {
    float value;
    std::memcpy(&value, &nan, sizeof value);
    CHECK(std::isnan(packedValue(device, PAGODA_BF16, &value, PAGODA_F32)), "from %08x", nan);
  }
}

void testPacking(const std::string& isa) {
  Device device(isa.c_str(), 2);
  for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16, PAGODA_F16}) {
    for (int32_t cols : {1, 2, 65, 130}) {
      testSources(device, PAGODA_MATRIX, dtype, 150, cols);
      testSources(device, PAGODA_MATRIX, dtype, 1, cols);
      testSources(device, PAGODA_TABLE, dtype, 150, cols);
    }
  }
  testSources(device, PAGODA_VECTOR, PAGODA_F32, 1, 77);
  testConversions(device);
}

// ---- embed -----------------------------------------------------------------------------------------

void testEmbed(const std::string& isa) {
  Device device(isa.c_str(), 2);
  Random random(3);
  for (PagodaWeightKind kind : {PAGODA_TABLE, PAGODA_MATRIX}) {
    for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16}) {
      for (int32_t width : {1, 3, 17, 64, 65}) {
        section(text("%s embed kind %d dtype %d width %d", isa.c_str(), kind, dtype, width));
        constexpr int32_t kVocab = 100;
        constexpr int32_t kTokens = 41;
        const std::vector<float> values = random.floats(kVocab * width);
        Weight table(device, kind, dtype, kVocab, width, values);
        std::vector<int32_t> tokens(kTokens);
        for (int32_t& token : tokens) token = random.below(kVocab);
        tokens[1] = kVocab - 1;
        Guarded out(kTokens * (width + 1));
        device.run<PagodaEmbed>(device.api->embed, {.out = tensorOf(out, kTokens, width, width + 1),
                                                    .tokenIds = tokens.data(),
                                                    .table = table.weight,
                                                    .scale = 1.5f});
        for (int32_t t = 0; t < kTokens; ++t) {
          for (int32_t i = 0; i < width; ++i) {
            const float value = values[tokens[t] * width + i];
            const float expected = 1.5f * (dtype == PAGODA_BF16 ? roundBf16(value) : value);
            CHECK(out[t * (width + 1) + i] == expected, "token %d column %d", t, i);
          }
          CHECK(std::isnan(out[t * (width + 1) + width]));
        }
        CHECK(out.intact());
      }
    }
  }
}

// ---- f16 -------------------------------------------------------------------------------------------

// Halves of all sizes, subnormal ones included, none of them infinite or NaN.
std::vector<uint16_t> randomHalves(Random& random, size_t n) {
  std::vector<uint16_t> halves(n);
  for (uint16_t& half : halves) half = static_cast<uint16_t>(random.next() & 0xbbffu);  // below 1
  return halves;
}

// Weights that stay f16 give the bits of the same weights in f32.
void testHalves(const std::string& isa, int32_t rows, int32_t inputs, int32_t outputs) {
  section(text("%s f16 rows %d inputs %d outputs %d", isa.c_str(), rows, inputs, outputs));
  Device device(isa.c_str(), 2);
  Random random(rows + inputs + outputs);
  Guarded x(random.floats(static_cast<size_t>(rows) * inputs));
  const std::vector<uint16_t> halves = randomHalves(random, static_cast<size_t>(outputs) * inputs);
  std::vector<int32_t> tokens(rows);
  for (int32_t& token : tokens) token = random.below(outputs);
  for (const PagodaWeightKind kind : {PAGODA_MATRIX, PAGODA_TABLE}) {
    std::vector<Guarded> results;
    std::vector<size_t> sizes;
    for (const PagodaDtype dtype : {PAGODA_F32, PAGODA_F16}) {
      Weight weight(device, kind, dtype, outputs, inputs);
      const int32_t middle = outputs / 2;
      weight.fill(device, middle, outputs - middle, halves.data() + static_cast<size_t>(middle) * inputs, PAGODA_F16);
      weight.fill(device, 0, middle, halves.data(), PAGODA_F16);
      uint64_t bytes = 0;
      CHECK(device.api->weightBytes(device.handle, &weight.weight, &bytes, &device.error) == PAGODA_OK);
      sizes.push_back(bytes);
      device.run<PagodaEmbed>(device.api->embed, {.out = tensorOf(results.emplace_back(rows * inputs), rows, inputs),
                                                  .tokenIds = tokens.data(),
                                                  .table = weight.weight,
                                                  .scale = 1.5f});
      Guarded& out = results.emplace_back(kind == PAGODA_MATRIX ? rows * outputs : 0);
      if (kind == PAGODA_TABLE) continue;
      device.run<PagodaLinear>(device.api->linear, {.out = tensorOf(out, rows, outputs),
                                                    .x = tensorOf(x, rows, inputs),
                                                    .weight = weight.weight,
                                                    .bias = kNoWeight});
    }
    CHECK(sizes[1] * 2 == sizes[0]);
    CHECK(sameBits(results[0].data(), results[2].data(), results[0].size()), "embed");
    CHECK(sameBits(results[1].data(), results[3].data(), results[1].size()), "linear");
    for (size_t i = 0; i < results[3].size(); ++i) CHECK(std::isfinite(results[3][i]));
  }
}

void testHalves(const std::string& isa) {
  testHalves(isa, 1, 1, 1);
  testHalves(isa, 5, 33, 70);
  testHalves(isa, 7, 64, 129);
  testHalves(isa, 70, 4099, 17);
  testHalves(isa, 1, 2050, 200);
}

// What is not f16 yet is rounded to nearest even.
void testRoundingToHalves(const std::string& isa) {
  section(text("%s rounding to f16", isa.c_str()));
  Device device(isa.c_str(), 2);
  const std::vector<float> values = {1.0f, 1.00048828125f, 1.00146484375f, 65519.0f, -65520.0f, 2.98023224e-8f, -0.1f};
  const std::vector<uint16_t> expected = {0x3c00, 0x3c00, 0x3c02, 0x7bff, 0xfc00, 0x0000, 0xae66};
  Weight table(device, PAGODA_TABLE, PAGODA_F16, 1, static_cast<int32_t>(values.size()), values);
  CHECK(std::memcmp(table.weight.data, expected.data(), expected.size() * sizeof(uint16_t)) == 0);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  for (const std::string& isa : isas()) {
    testLinear(isa);
    testPacking(isa);
    testEmbed(isa);
    testHalves(isa);
    testRoundingToHalves(isa);
  }
  return finish();
}
