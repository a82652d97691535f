// Quantised weights: linear and embed against double precision on the decoded blocks, and by bits.
#include "../cpu/block-codec.h"
#include "../cpu/half.h"
#include "cpu-fixture.h"

namespace pagoda::test {
namespace {

constexpr PagodaDtype kDtypes[] = {PAGODA_Q8_0, PAGODA_Q4_0, PAGODA_Q4_1, PAGODA_Q5_0, PAGODA_Q5_1,
                                   PAGODA_Q4_K, PAGODA_Q5_K, PAGODA_Q6_K, PAGODA_MXFP4};

const char* nameOf(PagodaDtype dtype) {
  const char* names[] = {"f32",  "bf16", "f16",  "q8_0", "q4_0", "q4_1", "q5_0",
                         "q5_1", "q4_k", "q5_k", "q6_k", "int8", "mxfp4"};
  return names[dtype];
}

// The exponent of an MXFP4 block whose numbers are of the size of `factor`.
uint8_t exponentOf(float factor) {
  return std::isfinite(factor) ? static_cast<uint8_t>(127 + std::ilogb(factor)) : 255;
}

// Any bytes are valid blocks but for the f16 factors, which are set to `factor` times a number in [0.5, 1].
std::vector<uint8_t> randomRows(Random& random, PagodaDtype dtype, int32_t rows, int32_t cols, float factor = 0.01f) {
  std::vector<uint8_t> bytes(static_cast<size_t>(rows * rowBytes(dtype, cols)));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next() >> 8);
  const size_t blockBytes = static_cast<size_t>(blockFormat(dtype).bytes);
  const bool atEnd = dtype == PAGODA_Q6_K;
  const bool two = dtype == PAGODA_Q4_1 || dtype == PAGODA_Q5_1 || dtype == PAGODA_Q4_K || dtype == PAGODA_Q5_K;
  for (size_t at = 0; at < bytes.size(); at += blockBytes) {
    if (dtype == PAGODA_MXFP4) {
      bytes[at] = static_cast<uint8_t>(exponentOf(factor) - (std::isfinite(factor) ? random.below(3) : 0));
      continue;
    }
    for (int i = 0; i <= (two ? 1 : 0); ++i) {
      const uint16_t half = floatToHalf(factor * (0.75f + random.uniform() / 4));
      std::memcpy(&bytes[at + (atEnd ? blockBytes - 2 : 2 * i)], &half, sizeof half);
    }
  }
  return bytes;
}

std::vector<float> dequantize(const std::vector<uint8_t>& bytes, PagodaDtype dtype) {
  const BlockFormat format = blockFormat(dtype);
  const size_t blocks = bytes.size() / format.bytes;
  std::vector<float> values(blocks * format.columns);
  for (size_t b = 0; b < blocks; ++b) {
    dequantizeBlock(dtype, &bytes[b * format.bytes], &values[b * format.columns]);
  }
  return values;
}

// The activations as a linear rounds them: 8 bits, and a scale for 32 columns beside weights of 8 bits, else for 256.
std::vector<double> roundRow(const float* x, int32_t cols, PagodaDtype dtype) {
  const int32_t step = dtype == PAGODA_Q8_0 ? 32 : 256;
  std::vector<double> rounded(cols);
  for (int32_t col = 0; col < cols; col += step) {
    const int32_t end = std::min(col + step, cols);
    float largest = 0;
    for (int32_t i = col; i < end; ++i) largest = std::fmax(largest, std::fabs(x[i]));
    const float inverse = largest >= 0x1p-100f ? 127 / largest : 0;
    for (int32_t i = col; i < end; ++i) rounded[i] = std::nearbyint(x[i] * inverse) * (double)(largest / 127);
  }
  return rounded;
}

struct QuantizedWeight {
  QuantizedWeight(Device& device, PagodaDtype dtype, int32_t rows, int32_t cols, const std::vector<uint8_t>& bytes,
                  PagodaWeightKind kind = PAGODA_MATRIX)
      : packed(device, kind, dtype, rows, cols) {
    const int32_t middle = rows / 3;  // parts, in any order
    packed.fill(device, middle, rows - middle, &bytes[middle * rowBytes(dtype, cols)], dtype);
    packed.fill(device, 0, middle, bytes.data(), dtype);
  }
  Weight packed;
};

void multiply(Device& device, Guarded& out, Guarded& x, int32_t first, int32_t rows, const PagodaWeight& weight,
              const PagodaWeight& bias = kNoWeight) {
  device.run<PagodaLinear>(device.api->linear, {.out = tensorAt(out.data() + first * weight.rows, rows, weight.rows),
                                                .x = tensorAt(x.data() + first * weight.cols, rows, weight.cols),
                                                .weight = weight,
                                                .bias = bias});
}

// Only float sums of exact products of integers are rounded, so results are close to those of double precision.
void testCase(const std::string& isa, PagodaDtype dtype, int32_t rows, int32_t inputs, int32_t outputs) {
  section(text("%s linear %s rows %d inputs %d outputs %d", isa.c_str(), nameOf(dtype), rows, inputs, outputs));
  Device device(isa.c_str(), 2);
  Random random(rows * 131 + inputs * 17 + outputs);
  const std::vector<uint8_t> bytes = randomRows(random, dtype, outputs, inputs);
  const std::vector<float> w = dequantize(bytes, dtype);
  QuantizedWeight weight(device, dtype, outputs, inputs, bytes);
  Guarded x(random.floats(static_cast<size_t>(rows) * inputs));
  Guarded out(static_cast<size_t>(rows) * outputs);
  const std::vector<float> b = random.floats(outputs);
  Weight bias(device, PAGODA_VECTOR, PAGODA_F32, 1, outputs, b);
  multiply(device, out, x, 0, rows, weight.packed.weight, bias.weight);
  CHECK(out.intact());
  CHECK(weight.packed.intact());
  for (int32_t r = 0; r < rows; ++r) {
    const std::vector<double> a = roundRow(x.data() + r * inputs, inputs, dtype);
    for (int32_t n = 0; n < outputs; ++n) {
      double sum = b[n], size = std::fabs(b[n]);
      for (int32_t k = 0; k < inputs; ++k) {
        const double product = a[k] * w[static_cast<size_t>(n) * inputs + k];
        sum += product;
        size += std::fabs(product);
      }
      const double difference = std::fabs(out[static_cast<size_t>(r) * outputs + n] - sum);
      CHECK(difference <= 1e-6 * size, "row %d output %d: %g of %g", r, n, difference, size);
    }
  }
}

// A row has the same bits whatever the rows beside it and the number of threads.
void testInvariance(const std::string& isa, PagodaDtype dtype, int32_t inputs, int32_t outputs) {
  section(text("%s linear invariance %s %d %d", isa.c_str(), nameOf(dtype), inputs, outputs));
  constexpr int32_t kRows = 200;
  Device device(isa.c_str(), 3);
  Random random(7);
  QuantizedWeight weight(device, dtype, outputs, inputs, randomRows(random, dtype, outputs, inputs));
  Guarded x(random.floats(static_cast<size_t>(kRows) * inputs));
  Guarded together(static_cast<size_t>(kRows) * outputs);
  multiply(device, together, x, 0, kRows, weight.packed.weight);
  for (int32_t threads = 1; threads <= 4; ++threads) {
    Device other(isa.c_str(), threads);
    for (int32_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 17, 64}) {
      Guarded alone(static_cast<size_t>(kRows) * outputs);
      for (int32_t first = 0; first < kRows; first += rows) {
        multiply(other, alone, x, first, std::min(rows, kRows - first), weight.packed.weight);
      }
      CHECK(sameBits(together.data(), alone.data(), together.size()), "%d threads, %d rows", threads, rows);
    }
  }
}

void testEmbed(const std::string& isa, PagodaDtype dtype, PagodaWeightKind kind) {
  section(text("%s embed %s kind %d", isa.c_str(), nameOf(dtype), kind));
  Device device(isa.c_str(), 2);
  Random random(3);
  constexpr int32_t kVocab = 75, kWidth = 512, kTokens = 41;
  const std::vector<uint8_t> bytes = randomRows(random, dtype, kVocab, kWidth);
  const std::vector<float> w = dequantize(bytes, dtype);
  QuantizedWeight table(device, dtype, kVocab, kWidth, bytes, kind);
  std::vector<int32_t> ids(kTokens);
  for (int32_t& id : ids) id = random.below(kVocab);
  ids[0] = kVocab - 1;
  Guarded out(kTokens * kWidth);
  device.run<PagodaEmbed>(
      device.api->embed,
      {.out = tensorOf(out, kTokens, kWidth), .tokenIds = ids.data(), .table = table.packed.weight, .scale = 3});
  for (int32_t i = 0; i < kTokens * kWidth; ++i) {
    CHECK(out[i] == w[ids[i / kWidth] * kWidth + i % kWidth] * 3, "element %d", i);
  }
}

// Weights and activations at the ends of what there is: no crash, and what is not finite shows.
void testExtremes(const std::string& isa, PagodaDtype dtype) {
  section(text("%s extremes %s", isa.c_str(), nameOf(dtype)));
  constexpr int32_t kInputs = 512, kOutputs = 70, kRows = 7;
  Device device(isa.c_str(), 2);
  Random random(11);
  const auto product = [&](const std::vector<uint8_t>& bytes, const std::vector<float>& values) {
    QuantizedWeight weight(device, dtype, kOutputs, kInputs, bytes);
    Guarded x(values);
    Guarded out(kRows * kOutputs);
    multiply(device, out, x, 0, kRows, weight.packed.weight);
    return std::vector<float>(out.data(), out.data() + out.size());
  };
  const std::vector<uint8_t> plain = randomRows(random, dtype, kOutputs, kInputs);
  const std::vector<float> ordinary = random.floats(kRows * kInputs);
  for (float value : product(plain, std::vector<float>(kRows * kInputs, 0.0f))) CHECK(value == 0);
  for (float value : product(plain, std::vector<float>(kRows * kInputs, 1e-41f))) CHECK(value == 0);
  for (float value : product(randomRows(random, dtype, kOutputs, kInputs, 6e-8f), ordinary)) {
    CHECK(std::isfinite(value));
  }
  for (float factor : {INFINITY, NAN}) {
    for (float value : product(randomRows(random, dtype, kOutputs, kInputs, factor), ordinary)) {
      CHECK(!std::isfinite(value));
    }
  }
  for (uint8_t byte : {0x00, 0x7f, 0x80, 0xff}) {
    product(std::vector<uint8_t>(plain.size(), byte), ordinary);
    product(std::vector<uint8_t>(plain.size(), byte), std::vector<float>(kRows * kInputs, -1.0f));
  }
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    std::vector<float> values = ordinary;
    values[2 * kInputs + 77] = bad;
    const std::vector<float> out = product(plain, values);
    for (int32_t i = 0; i < kRows * kOutputs; ++i) {
      CHECK(i / kOutputs == 2 ? std::isnan(out[i]) : std::isfinite(out[i]), "%g: element %d", bad, i);
    }
  }
}

// The largest sums that integers can hold: no dot product saturates.
void testLargestCodes(const std::string& isa) {
  section(text("%s largest codes", isa.c_str()));
  Device device(isa.c_str(), 1);
  for (int code : {-128, -127, 127}) {
    for (float sign : {-1.0f, 1.0f}) {
      BlockQ8_0 block = {.d = floatToHalf(1), .codes = {}};
      std::memset(block.codes, code, sizeof block.codes);
      Weight weight(device, PAGODA_MATRIX, PAGODA_Q8_0, 1, 32);
      weight.fill(device, 0, 1, &block, PAGODA_Q8_0);
      Guarded x(std::vector<float>(32, sign));
      Guarded out(1);
      multiply(device, out, x, 0, 1, weight.weight);
      CHECK_CLOSE(out[0], 32.0 * code * sign, 1e-6, text("code %d", code));
    }
  }
}

// ---- conversions -----------------------------------------------------------------------------------

// Rows of a table as floats.
std::vector<float> readBack(Device& device, const PagodaWeight& table) {
  std::vector<int32_t> ids(table.rows);
  for (int32_t i = 0; i < table.rows; ++i) ids[i] = i;
  Guarded out(static_cast<size_t>(table.rows) * table.cols);
  device.run<PagodaEmbed>(
      device.api->embed,
      {.out = tensorOf(out, table.rows, table.cols), .tokenIds = ids.data(), .table = table, .scale = 1});
  return std::vector<float>(out.data(), out.data() + out.size());
}

double relativeError(const std::vector<float>& received, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (received[i] - expected[i]) * static_cast<double>(received[i] - expected[i]);
    size += static_cast<double>(expected[i]) * expected[i];
  }
  return std::sqrt(error / size);
}

// Sums of uniform numbers, nearly normal as weights are.
std::vector<float> normals(Random& random, size_t n) {
  std::vector<float> values(n);
  for (float& value : values) {
    for (int i = 0; i < 6; ++i) value += random.uniform();
  }
  return values;
}

void testQuantizing(const std::string& isa) {
  Device device(isa.c_str(), 2);
  const struct {
    PagodaDtype dtype;
    double error;  // root mean square, of the root mean square of the values
  } types[] = {{PAGODA_Q8_0, 0.006}, {PAGODA_Q4_1, 0.075}, {PAGODA_Q4_K, 0.08}};
  for (const auto& [dtype, bound] : types) {
    section(text("%s quantising to %s", isa.c_str(), nameOf(dtype)));
    Random random(5);
    constexpr int32_t kRows = 130, kCols = 768;
    const std::vector<float> values = normals(random, kRows * kCols);
    for (PagodaWeightKind kind : {PAGODA_MATRIX, PAGODA_TABLE}) {
      Weight weight(device, kind, dtype, kRows, kCols, values);
      const double error = relativeError(readBack(device, weight.weight), values);
      CHECK(error <= bound, "error %g", error);
      CHECK(error > bound / 2, "error %g", error);
    }
    std::vector<uint16_t> bf16(values.size());
    std::vector<float> rounded(values.size());
    for (size_t i = 0; i < values.size(); ++i) bf16[i] = floatToBf16(values[i]);
    for (size_t i = 0; i < values.size(); ++i) rounded[i] = bf16ToFloat(bf16[i]);
    Weight fromBf16(device, PAGODA_MATRIX, dtype, kRows, kCols);
    fromBf16.fill(device, 0, kRows, bf16.data(), PAGODA_BF16);
    const Weight fromFloats(device, PAGODA_MATRIX, dtype, kRows, kCols, rounded);
    CHECK(fromBf16.memory() == fromFloats.memory());
  }
}

// Blocks of a constant, of extremes and with numbers that are not finite.
void testQuantizingExtremes() {
  Device device(nullptr, 1);
  for (PagodaDtype dtype : {PAGODA_Q8_0, PAGODA_Q4_1, PAGODA_Q4_K}) {
    section(text("quantising extremes to %s", nameOf(dtype)));
    for (float value : {0.0f, -0.0f, 1.0f, -2.0f, 1e-6f, 60000.0f, -60000.0f}) {
      const std::vector<float> values(256, value);
      Weight weight(device, PAGODA_TABLE, dtype, 1, 256, values);
      for (float received : readBack(device, weight.weight)) {
        CHECK(std::fabs(received - value) <= 2e-2 * std::fabs(value) + 1e-6, "%g became %g", value, received);
      }
    }
    for (float bad : {INFINITY, -INFINITY, NAN}) {
      std::vector<float> values(256, 1.0f);
      values[9] = bad;
      Weight weight(device, PAGODA_TABLE, dtype, 1, 256, values);
      CHECK(std::isnan(readBack(device, weight.weight)[9]));
    }
    for (float huge : {1e-44f, 1e30f, 3.4e38f}) {
      Random random(2);
      std::vector<float> values = random.floats(256);
      for (float& value : values) value *= huge;
      Weight weight(device, PAGODA_TABLE, dtype, 1, 256, values);
      readBack(device, weight.weight);
    }
  }
}

// A quantised source becomes plain numbers exactly, and another quantised type nearly.
void testConverting(const std::string& isa, PagodaDtype source) {
  section(text("%s converting %s", isa.c_str(), nameOf(source)));
  Device device(isa.c_str(), 2);
  Random random(9);
  constexpr int32_t kRows = 70, kCols = 512;
  const std::vector<uint8_t> bytes = randomRows(random, source, kRows, kCols);
  const std::vector<float> values = dequantize(bytes, source);
  for (PagodaWeightKind kind : {PAGODA_MATRIX, PAGODA_TABLE}) {
    Weight plain(device, kind, PAGODA_F32, kRows, kCols);
    plain.fill(device, 0, kRows, bytes.data(), source);
    CHECK(readBack(device, plain.weight) == values);
    CHECK(plain.memory() == Weight(device, kind, PAGODA_F32, kRows, kCols, values).memory());
    Weight halves(device, kind, PAGODA_BF16, kRows, kCols);
    halves.fill(device, 0, kRows, bytes.data(), source);
    CHECK(relativeError(readBack(device, halves.weight), values) < 2e-3);
    Weight bytes8(device, kind, PAGODA_Q8_0, kRows, kCols);
    bytes8.fill(device, 0, kRows, bytes.data(), source);
    CHECK(relativeError(readBack(device, bytes8.weight), values) < 0.01);
  }
}

void testRefusals() {
  section("refusals");
  Device device(nullptr, 1);
  const auto bytesOf = [&](PagodaWeightKind kind, PagodaDtype dtype, int32_t rows, int32_t cols) {
    const PagodaWeight weight = {.data = nullptr, .kind = kind, .rows = rows, .cols = cols, .dtype = dtype};
    uint64_t bytes = 0;
    return device.api->weightBytes(device.handle, &weight, &bytes, &device.error);
  };
  CHECK(bytesOf(PAGODA_MATRIX, PAGODA_Q8_0, 4, 48) == PAGODA_INVALID);
  CHECK(bytesOf(PAGODA_MATRIX, PAGODA_Q4_K, 4, 288) == PAGODA_INVALID);
  CHECK(bytesOf(PAGODA_VECTOR, PAGODA_Q8_0, 1, 64) == PAGODA_UNSUPPORTED);
  CHECK(bytesOf(PAGODA_MATRIX, static_cast<PagodaDtype>(99), 4, 64) == PAGODA_UNSUPPORTED);
  CHECK(bytesOf(PAGODA_MATRIX, PAGODA_Q6_K, 1 << 30, 1 << 30) == PAGODA_OK);
  Weight weight(device, PAGODA_MATRIX, PAGODA_Q6_K, 1, 256);
  const std::vector<float> values(256, 1.0f);
  CHECK(device.api->prepareWeight(device.handle, &weight.weight, 0, 1, values.data(), PAGODA_F32, &device.error) ==
        PAGODA_UNSUPPORTED);
  CHECK(device.api->prepareWeight(device.handle, &weight.weight, 0, 1, values.data(), static_cast<PagodaDtype>(99),
                                  &device.error) == PAGODA_UNSUPPORTED);
  Weight odd(device, PAGODA_MATRIX, PAGODA_F32, 1, 40);
  CHECK(device.api->prepareWeight(device.handle, &odd.weight, 0, 1, values.data(), PAGODA_Q8_0, &device.error) ==
        PAGODA_INVALID);
}

void testHalves() {
  section("floats to halves");
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = halfToFloat(half);
    if (std::isnan(value)) {
      CHECK(std::isnan(halfToFloat(floatToHalf(value))));
      continue;
    }
    CHECK(floatToHalf(value) == half, "%04x", bits);
    if ((half & 0x7fff) >= 0x7bff) continue;
    const float next = halfToFloat(static_cast<uint16_t>(half + 1));
    const float middle = value / 2 + next / 2;
    CHECK(floatToHalf(middle) == (half % 2 == 0 ? half : half + 1), "above %04x", bits);
    CHECK(floatToHalf(std::nextafter(middle, value)) == half, "above %04x", bits);
    CHECK(floatToHalf(std::nextafter(middle, next)) == half + 1, "above %04x", bits);
  }
}

void testDtype(const std::string& isa, PagodaDtype dtype) {
  for (int32_t rows : {1, 2, 3, 4, 5, 6, 7, 13}) testCase(isa, dtype, rows, 512, 65);
  testCase(isa, dtype, 70, 768, 200);
  testCase(isa, dtype, 1, 2048, 33);
  testCase(isa, dtype, 5, 256, 1);
  if (blockFormat(dtype).columns == 32) {
    testCase(isa, dtype, 9, 32, 17);
    testCase(isa, dtype, 4, 352, 130);
  }
  testInvariance(isa, dtype, 512, 130);
  testEmbed(isa, dtype, PAGODA_MATRIX);
  testEmbed(isa, dtype, PAGODA_TABLE);
  testExtremes(isa, dtype);
  testConverting(isa, dtype);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  for (const std::string& isa : isas()) {
    for (PagodaDtype dtype : kDtypes) testDtype(isa, dtype);
    testLargestCodes(isa);
    testQuantizing(isa);
  }
  testQuantizingExtremes();
  testRefusals();
  testHalves();
  return finish();
}
