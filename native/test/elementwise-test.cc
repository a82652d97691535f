// rmsNorm, rope, ropeTable, gatedActivation, add and takeRows against double precision.
#include "cpu-fixture.h"

namespace pagoda::test {
namespace {

constexpr int32_t kWidths[] = {1, 3, 16, 17, 64, 65, 257};

// Column `width` of each padded row must still be poisoned.
void checkPadding(const Guarded& out, int32_t rows, int32_t width) {
  CHECK(out.intact());
  for (int32_t r = 0; r < rows; ++r) CHECK(std::isnan(out[r * (width + 1) + width]), "row %d", r);
}

// ---- rmsNorm ---------------------------------------------------------------------------------------

void testRmsNorm(Device& device, int32_t rows, int32_t groups, int32_t groupWidth, float size) {
  const int32_t width = groups * groupWidth;
  section(text("rmsNorm rows %d groups %d of %d", rows, groups, groupWidth));
  Random random(groupWidth);
  Guarded x(random.floats(rows * (width + 1)));
  for (size_t i = 0; i < x.size(); ++i) x[i] *= size;
  Guarded out(rows * (width + 1));
  const std::vector<float> w = random.floats(groupWidth);
  Weight weight(device, PAGODA_VECTOR, PAGODA_F32, 1, groupWidth, w);
  const PagodaRmsNorm op = {.out = tensorOf(out, rows, width, width + 1),
                            .x = tensorOf(x, rows, width, width + 1),
                            .weight = weight.weight,
                            .groupWidth = groupWidth,
                            .eps = 1e-6f,
                            .weightOffset = 1.0f};
  device.run<PagodaRmsNorm>(device.api->rmsNorm, op);
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t g = 0; g < groups; ++g) {
      const float* row = x.data() + r * (width + 1) + g * groupWidth;
      double squares = 0;
      for (int32_t i = 0; i < groupWidth; ++i) squares += static_cast<double>(row[i]) * row[i];
      const double scale = 1 / std::sqrt(squares / groupWidth + 1e-6);
      for (int32_t i = 0; i < groupWidth; ++i) {
        const float received = out[r * (width + 1) + g * groupWidth + i];
        CHECK_CLOSE(received, row[i] * scale * (w[i] + 1.0), 1e-6, text("row %d group %d column %d", r, g, i));
      }
    }
  }
  checkPadding(out, rows, width);
  PagodaRmsNorm inPlace = op;
  inPlace.out = op.x;
  device.run<PagodaRmsNorm>(device.api->rmsNorm, inPlace);
  for (int32_t r = 0; r < rows; ++r) CHECK(sameBits(x.data() + r * (width + 1), out.data() + r * (width + 1), width));
}

// ---- rope ------------------------------------------------------------------------------------------

struct RopeCase {
  int32_t rows;
  int32_t heads;
  int32_t headDim;
  int32_t rotaryDim;
  bool interleaved;
};

void checkRope(const RopeCase& c, const Guarded& x, const Guarded& table, const Guarded& out) {
  const int32_t half = c.rotaryDim / 2;
  for (int32_t r = 0; r < c.rows; ++r) {
    const float* angles = table.data() + r * c.rotaryDim;
    for (int32_t h = 0; h < c.heads; ++h) {
      const int64_t start = (static_cast<int64_t>(r) * c.heads + h) * c.headDim;
      for (int32_t i = 0; i < half; ++i) {
        const int64_t first = start + (c.interleaved ? 2 * i : i);
        const int64_t second = first + (c.interleaved ? 1 : half);
        const double cosine = angles[i];
        const double sine = angles[half + i];
        CHECK_CLOSE(out[first], x[first] * cosine - x[second] * sine, 3e-7, text("row %d head %d pair %d", r, h, i));
        CHECK_CLOSE(out[second], x[second] * cosine + x[first] * sine, 3e-7, text("row %d head %d pair %d", r, h, i));
      }
      for (int64_t i = start + c.rotaryDim; i < start + c.headDim; ++i) CHECK(out[i] == x[i]);
    }
  }
}

void testRope(Device& device, const RopeCase& c) {
  section(text("rope rows %d heads %d of %d rotary %d interleaved %d", c.rows, c.heads, c.headDim, c.rotaryDim,
               c.interleaved));
  const int32_t width = c.heads * c.headDim;
  Random random(width);
  Guarded x(random.floats(c.rows * width));
  Guarded out(c.rows * width);
  Guarded table(c.rows * c.rotaryDim);
  std::vector<int32_t> positions(c.rows);
  for (int32_t& position : positions) position = random.below(100000);
  std::vector<float> frequencies(c.rotaryDim / 2);
  for (int32_t i = 0; i < c.rotaryDim / 2; ++i)
    frequencies[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / c.rotaryDim));
  Weight frequency(device, PAGODA_VECTOR, PAGODA_F32, 1, c.rotaryDim / 2, frequencies);
  device.run<PagodaRopeTable>(device.api->ropeTable, {.out = tensorOf(table, c.rows, c.rotaryDim),
                                                      .positions = positions.data(),
                                                      .frequency = frequency.weight,
                                                      .scaling = 1.25f});
  for (int32_t r = 0; r < c.rows; ++r) {
    for (int32_t i = 0; i < c.rotaryDim / 2; ++i) {
      const float angle = static_cast<float>(positions[r]) * frequencies[i];
      CHECK_CLOSE(table[r * c.rotaryDim + i], 1.25 * std::cos(static_cast<double>(angle)), 1e-7,
                  text("cosine %d %d", r, i));
      CHECK_CLOSE(table[r * c.rotaryDim + c.rotaryDim / 2 + i], 1.25 * std::sin(static_cast<double>(angle)), 1e-7,
                  text("sine %d %d", r, i));
    }
  }
  PagodaRope op = {.out = tensorOf(out, c.rows, width),
                   .x = tensorOf(x, c.rows, width),
                   .table = tensorOf(table, c.rows, c.rotaryDim),
                   .headDim = c.headDim,
                   .rotaryDim = c.rotaryDim,
                   .interleaved = c.interleaved ? 1 : 0};
  device.run<PagodaRope>(device.api->rope, op);
  checkRope(c, x, table, out);
  CHECK(out.intact() && table.intact());
  op.out = op.x;
  device.run<PagodaRope>(device.api->rope, op);
  CHECK(sameBits(x.data(), out.data(), out.size()), "in place");
}

// ---- gatedActivation -------------------------------------------------------------------------------

double activate(PagodaActivation activation, double x) {
  switch (activation) {
    case PAGODA_SILU:
      return x / (1 + std::exp(-x));
    case PAGODA_GELU_TANH:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case PAGODA_GELU:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  }
  return kNaN;
}

void testGatedActivation(Device& device, PagodaActivation activation, int32_t rows, int32_t width) {
  section(text("gatedActivation %d rows %d width %d", activation, rows, width));
  Random random(width + activation);
  Guarded gate(random.floats(rows * (width + 1)));
  for (size_t i = 0; i < gate.size(); ++i) gate[i] *= i % 3 == 0 ? 100.0f : 6.0f;
  gate[0] = 0.0f;
  Guarded up(random.floats(rows * (width + 1)));
  Guarded out(rows * (width + 1));
  device.run<PagodaGatedActivation>(device.api->gatedActivation, {.out = tensorOf(out, rows, width, width + 1),
                                                                  .gate = tensorOf(gate, rows, width, width + 1),
                                                                  .up = tensorOf(up, rows, width, width + 1),
                                                                  .activation = activation});
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t i = 0; i < width; ++i) {
      const int32_t at = r * (width + 1) + i;
      CHECK_CLOSE(out[at], activate(activation, gate[at]) * up[at], 2e-6, text("x %g up %g", gate[at], up[at]));
    }
  }
  checkPadding(out, rows, width);
}

// Infinities do not turn into surprises and NaN is not lost.
void testActivationEdges(Device& device) {
  section("gatedActivation edges");
  const float inf = std::numeric_limits<float>::infinity();
  for (PagodaActivation activation : {PAGODA_SILU, PAGODA_GELU_TANH, PAGODA_GELU}) {
    Guarded gate(std::vector<float>{0.0f, -0.0f, 3e38f, -3e38f, kNaN, inf, 88.8f, -88.8f, -104.0f, 1e-40f});
    Guarded up(std::vector<float>(gate.size(), 1.0f));
    Guarded out(gate.size());
    const int32_t width = static_cast<int32_t>(gate.size());
    device.run<PagodaGatedActivation>(device.api->gatedActivation, {.out = tensorOf(out, 1, width),
                                                                    .gate = tensorOf(gate, 1, width),
                                                                    .up = tensorOf(up, 1, width),
                                                                    .activation = activation});
    CHECK(out[0] == 0 && out[1] == 0);
    CHECK(out[2] == 3e38f, "activation %d of 3e38: %g", activation, out[2]);
    CHECK(std::fabs(out[3]) < 1e-30f, "activation %d of -3e38: %g", activation, out[3]);
    CHECK(std::isnan(out[4]), "activation %d", activation);
    CHECK(out[5] == inf, "activation %d: %g", activation, out[5]);
    CHECK(out[6] == 88.8f && std::fabs(out[7]) < 1e-30f && std::fabs(out[8]) < 1e-30f);
  }
}

// ---- add, takeRows ---------------------------------------------------------------------------------

void testAdd(Device& device, int32_t rows, int32_t width) {
  section(text("add rows %d width %d", rows, width));
  Random random(width);
  Guarded a(random.floats(rows * (width + 1)));
  Guarded b(random.floats(rows * width));
  Guarded out(rows * (width + 1));
  PagodaAdd op = {.out = tensorOf(out, rows, width, width + 1),
                  .a = tensorOf(a, rows, width, width + 1),
                  .b = tensorOf(b, rows, width)};
  device.run<PagodaAdd>(device.api->add, op);
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t i = 0; i < width; ++i) CHECK(out[r * (width + 1) + i] == a[r * (width + 1) + i] + b[r * width + i]);
  }
  checkPadding(out, rows, width);
  op.out = op.a;
  device.run<PagodaAdd>(device.api->add, op);
  for (int32_t r = 0; r < rows; ++r) CHECK(sameBits(a.data() + r * (width + 1), out.data() + r * (width + 1), width));
}

void testTakeRows(Device& device, int32_t count, int32_t width) {
  section(text("takeRows %d width %d", count, width));
  constexpr int32_t kRows = 29;
  Random random(width);
  Guarded x(random.floats(kRows * (width + 2)));
  Guarded out(count * (width + 1));
  std::vector<int32_t> rows(count);
  for (int32_t& row : rows) row = random.below(kRows);
  if (count > 0) rows.back() = kRows - 1;
  device.run<PagodaTakeRows>(
      device.api->takeRows,
      {.out = tensorOf(out, count, width, width + 1), .x = tensorOf(x, kRows, width, width + 2), .rows = rows.data()});
  for (int32_t s = 0; s < count; ++s)
    CHECK(sameBits(out.data() + s * (width + 1), x.data() + rows[s] * (width + 2), width));
  checkPadding(out, count, width);
}

void testIsa(const std::string& isa) {
  Device device(isa.c_str(), 2);
  for (int32_t width : kWidths) {
    for (int32_t rows : {0, 1, 2, 70}) {
      testRmsNorm(device, rows, 1, width, 1.0f);
      testAdd(device, rows, width);
      testTakeRows(device, rows, width);
      for (PagodaActivation activation : {PAGODA_SILU, PAGODA_GELU_TANH, PAGODA_GELU}) {
        testGatedActivation(device, activation, rows, width);
      }
    }
    testRmsNorm(device, 5, 3, width, 1e-4f);
  }
  testRmsNorm(device, 2, 1, 8191, 300.0f);
  testActivationEdges(device);
  for (bool interleaved : {false, true}) {
    testRope(device, {0, 2, 8, 8, interleaved});
    testRope(device, {1, 1, 2, 2, interleaved});
    testRope(device, {70, 3, 64, 64, interleaved});
    testRope(device, {7, 2, 80, 20, interleaved});
    testRope(device, {5, 4, 31, 30, interleaved});
    testRope(device, {3, 2, 128, 128, interleaved});
  }
}

}  // namespace
}  // namespace pagoda::test

int main() {
  for (const std::string& isa : pagoda::test::isas()) pagoda::test::testIsa(isa);
  return pagoda::test::finish();
}
