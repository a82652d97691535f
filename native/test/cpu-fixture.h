// Devices, guarded buffers and weights for the tests of the CPU backend.
#ifndef PAGODA_TEST_CPU_FIXTURE_H
#define PAGODA_TEST_CPU_FIXTURE_H

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../cpu/backend.h"
#include "../cpu/bf16.h"
#include "check.h"

namespace pagoda::test {

// An open CPU device; api->op(device, ...) is what is tested.
class Device {
 public:
  explicit Device(const char* isa, int32_t threads = 2) : api(pagodaCpuBackend()) {
    const PagodaDeviceOptions options = {.device = 0, .threads = threads, .isa = isa};
    status = api->openDevice(&options, &handle, &error);
  }
  ~Device() { api->closeDevice(handle); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Runs an op, which must succeed.
  template <class Op>
  void run(PagodaStatus (*op)(PagodaDevice*, const Op*, PagodaError*), const Op& parameters) {
    error.message[0] = '\0';
    const PagodaStatus result = op(handle, &parameters, &error);
    CHECK(result == PAGODA_OK, "status %d: %s", result, error.message);
  }

  const PagodaBackend* api;
  PagodaDevice* handle = nullptr;
  PagodaStatus status = PAGODA_OK;
  PagodaError error = {};
};

// Names of the instruction sets that this machine can run.
inline std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const char* name : {"base", "avx2", "avxvnni", "avx512", "neon"}) {
    if (Device(name, 1).status == PAGODA_OK) names.push_back(name);
  }
  return names;
}

// Uniform numbers in [-1, 1), reproducible.
class Random {
 public:
  explicit Random(uint64_t seed = 1) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}

  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  float uniform() { return static_cast<float>(next()) / 1073741824.0f - 1.0f; }
  int32_t below(int32_t bound) { return static_cast<int32_t>(next() % static_cast<uint32_t>(bound)); }

  std::vector<float> floats(size_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = uniform();
    return values;
  }

 private:
  uint64_t state_;
};

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Floats between two bands of a known pattern; poisoned with NaN until written.
class Guarded {
 public:
  explicit Guarded(size_t n) : size_(n), memory_(n + 2 * kBand, kPattern) {
    for (size_t i = 0; i < n; ++i) data()[i] = kNaN;
  }
  explicit Guarded(const std::vector<float>& values) : Guarded(values.size()) {
    for (size_t i = 0; i < values.size(); ++i) data()[i] = values[i];
  }

  float* data() { return memory_.data() + kBand; }
  const float* data() const { return memory_.data() + kBand; }
  float& operator[](size_t i) { return data()[i]; }
  float operator[](size_t i) const { return data()[i]; }
  size_t size() const { return size_; }

  bool intact() const {
    for (size_t i = 0; i < kBand; ++i) {
      if (memory_[i] != kPattern || memory_[kBand + size_ + i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kBand = 64;
  static constexpr float kPattern = -12345.0f;
  size_t size_;
  std::vector<float> memory_;
};

inline bool sameBits(const float* a, const float* b, size_t n) { return std::memcmp(a, b, n * sizeof(float)) == 0; }

// [rows, width] at `data`; stride 0 means width.
inline PagodaTensor tensorAt(float* data, int32_t rows, int32_t width, int64_t stride = 0) {
  return {.data = data, .rows = rows, .width = width, .rowStride = stride > 0 ? stride : width, .dtype = PAGODA_F32};
}
inline PagodaTensor tensorOf(Guarded& values, int32_t rows, int32_t width, int64_t stride = 0) {
  return tensorAt(values.data(), rows, width, stride);
}

// A weight packed on a device, in memory between sentinel bytes.
class Weight {
 public:
  Weight(Device& device, PagodaWeightKind kind, PagodaDtype dtype, int32_t rows, int32_t cols,
         const std::vector<float>& values)
      : Weight(device, kind, dtype, rows, cols) {
    fill(device, 0, rows, values.data(), PAGODA_F32);
  }
  // Packed later, by `fill`.
  Weight(Device& device, PagodaWeightKind kind, PagodaDtype dtype, int32_t rows, int32_t cols)
      : weight{.data = nullptr, .kind = kind, .rows = rows, .cols = cols, .dtype = dtype} {
    const PagodaStatus status = device.api->weightBytes(device.handle, &weight, &bytes_, &device.error);
    CHECK(status == PAGODA_OK, "%s", device.error.message);
    memory_.assign(bytes_ + 2 * kBand, kPattern);
    weight.data = memory_.data() + kBand;
  }
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;

  void fill(Device& device, int32_t rowStart, int32_t rows, const void* source, PagodaDtype sourceDtype) {
    const PagodaStatus status =
        device.api->prepareWeight(device.handle, &weight, rowStart, rows, source, sourceDtype, &device.error);
    CHECK(status == PAGODA_OK, "%s", device.error.message);
    CHECK(intact());
  }

  bool intact() const {
    for (size_t i = 0; i < kBand; ++i) {
      if (memory_[i] != kPattern || memory_[kBand + bytes_ + i] != kPattern) return false;
    }
    return true;
  }

  const std::vector<uint8_t>& memory() const { return memory_; }

  PagodaWeight weight;

 private:
  static constexpr size_t kBand = 64;
  static constexpr uint8_t kPattern = 0xAB;
  uint64_t bytes_ = 0;
  std::vector<uint8_t> memory_;
};

constexpr PagodaWeight kNoWeight = {.data = nullptr, .kind = PAGODA_VECTOR, .rows = 0, .cols = 0, .dtype = PAGODA_F32};

inline float roundBf16(float x) { return bf16ToFloat(floatToBf16(x)); }

}  // namespace pagoda::test

#endif
