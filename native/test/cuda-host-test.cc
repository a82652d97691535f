// The host side of the CUDA plug-in on emulated GPUs, good and bad ones (cuda-emulator/setup.h): threads, devices,
// memory.
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "../device.h"
#include "../plug-in.h"
#include "check.h"

namespace pagoda::test {
namespace {

void setMachine(const char* setup) { setenv("PAGODA_CUDA_EMULATOR", setup, 1); }

const PagodaBackend* backend() { return openBackend(PAGODA_EMULATED_PLUG_IN); }

std::unique_ptr<Device> open(int32_t index) {
  PagodaDeviceOptions options = {index, 0, nullptr};
  return openDevice(backend(), options);
}

/// The status and message of what `function` throws.
template <typename Function>
Failure failureOf(Function&& function) {
  try {
    function();
  } catch (const Failure& failure) {
    return failure;
  }
  return Failure(PAGODA_OK, "no failure");
}

bool holds(const Failure& failure, const char* text) {
  return std::string(failure.what()).find(text) != std::string::npos;
}

/// a + a, by an op of the device.
std::vector<float> doubled(Device& device, const std::vector<float>& values) {
  const uint64_t bytes = values.size() * sizeof(float);
  const DeviceMemory in(device, "in", bytes), out(device, "out", bytes);
  device.copyToDevice(in.at(0), values.data(), bytes);
  const auto width = static_cast<int32_t>(values.size());
  const auto tensor = [&](const DeviceMemory& memory) {
    return PagodaTensor{memory.at(0), 1, width, width, PAGODA_F32};
  };
  device.run("add", device.backend().add, PagodaAdd{tensor(out), tensor(in), tensor(in)});
  std::vector<float> result(values.size());
  device.copyToHost(result.data(), out.at(0), bytes);
  device.synchronize();
  return result;
}

void testThreads() {
  section("a device works on threads other than that which opened it, and beside devices of other GPUs");
  setMachine("gpus=8.0,9.0");
  const auto second = open(1), first = open(0);
  std::vector<float> results[3];
  results[0] = doubled(*second, {1, 2, 3});
  std::thread([&] { results[1] = doubled(*second, {1, 2, 3}); }).join();
  std::thread([&] { results[2] = doubled(*first, {1, 2, 3}); }).join();
  for (const auto& result : results) CHECK((result == std::vector<float>{2, 4, 6}), "of %zu", result.size());
  CHECK(std::string(second->info().isa) == "sm_90", "%s", second->info().isa);
}

void testClosing() {
  section("a device may be closed on another thread, and leaves no memory behind");
  setMachine("gpus=8.0,9.0");
  const uint64_t before = open(1)->info().availableMemory;
  auto device = open(1);
  void* memory = device->allocate("memory", 1 << 20);
  CHECK(device->info().availableMemory == before - (1 << 20), "%llu",
        static_cast<unsigned long long>(device->info().availableMemory));
  std::thread([&] {
    device->release(memory);
    device.reset();
  }).join();
  CHECK(open(1)->info().availableMemory == before, "all is free");
}

void testAnyDevice() {
  section("any device: the first that can be used, or the reasons of all");
  setMachine("gpus=7.0,7.5,9.0");
  PagodaDeviceOptions options = {kAnyDevice, 0, nullptr};
  openDevice(backend(), options);
  CHECK(options.device == 2, "%d", options.device);
  setMachine("gpus=9.0,9.0 image=0");
  options.device = kAnyDevice;
  const Failure failure = failureOf([&] { openDevice(backend(), options); });
  CHECK(failure.status() == PAGODA_UNAVAILABLE, "%d", failure.status());
  CHECK(holds(failure, "GPU 0") && holds(failure, "; ") && holds(failure, "GPU 1"), "%s", failure.what());
}

void testRetry() {
  section("memory is asked for twice");
  setMachine("memory=1000000");
  const auto device = open(0);
  setMachine("memory=1000000 allocation=1");
  const DeviceMemory memory(*device, "memory", 900000);
  const Failure failure = failureOf([&] { DeviceMemory(*device, "weights", 200000); });
  CHECK(failure.status() == PAGODA_OUT_OF_MEMORY, "%d", failure.status());
  CHECK(holds(failure, "[weights]"), "%s", failure.what());
  CHECK((doubled(*device, {4}) == std::vector<float>{8}), "the device works on");
}

void testBrokenContext() {
  section("a broken context fails all that is asked of it until its last device is closed");
  setMachine("launch=1");
  auto device = open(0), other = open(0);
  CHECK(failureOf([&] { doubled(*device, {1}); }).status() == PAGODA_FAILED, "the launch or what follows it");
  CHECK(failureOf([&] { other->synchronize(); }).status() == PAGODA_FAILED, "a device beside it");
  CHECK(failureOf([&] { open(0); }).status() == PAGODA_UNAVAILABLE, "a new device");
  device.reset();
  CHECK(failureOf([&] { open(0); }).status() == PAGODA_UNAVAILABLE, "another one is still open");
  other.reset();
  CHECK((doubled(*open(0), {1}) == std::vector<float>{2}), "all are closed");
}

/// y = x * weight^T on the tensor cores, for which x is rounded into memory that the device holds for itself.
struct Product {
  static constexpr int32_t kWidth = 64, kMostRows = 64;
  Device& device;
  DeviceMemory weight{device, "weight", device.weightBytes(weightAt(nullptr))};
  DeviceMemory x{device, "x", kMostRows*kWidth * sizeof(float)}, y{device, "y", x.bytes()};

  explicit Product(Device& device) : device(device) {
    std::vector<float> identity(kWidth * kWidth);
    for (int32_t i = 0; i < kWidth; ++i) identity[i * kWidth + i] = 2;
    device.prepareWeight("weight", weightAt(weight.at(0)), 0, kWidth, identity.data(), PAGODA_F32);
  }

  PagodaWeight weightAt(void* data) const { return {data, PAGODA_MATRIX, kWidth, kWidth, PAGODA_BF16}; }
  PagodaTensor rowsOf(const DeviceMemory& memory, int32_t rows) const {
    return {memory.at(0), rows, kWidth, kWidth, PAGODA_F32};
  }
  void queue(int32_t rows) {
    device.run("linear", device.backend().linear,
               PagodaLinear{rowsOf(y, rows), rowsOf(x, rows), weightAt(weight.at(0)), {}});
  }
  void setInput(float value) {
    const std::vector<float> values(kMostRows * kWidth, value);
    device.copyToDevice(x.at(0), values.data(), x.bytes());
  }
  float result(int32_t row) {
    std::vector<float> values(kMostRows * kWidth);
    device.copyToHost(values.data(), y.at(0), y.bytes());
    device.synchronize();
    return values[row * kWidth + 5];
  }
};

void testGraphs(int32_t gpu) {
  section("a graph runs again with what is in memory by then");
  setMachine("gpus=9.0,8.0");
  const auto device = open(gpu);
  Product product(*device);
  product.setInput(1);
  product.queue(4);
  DeviceGraph graph(*device, [&] { product.queue(4); });
  for (const float value : {3.0f, 5.0f}) {
    product.setInput(value);
    CHECK(graph.run(), "it is up to date");
    CHECK(product.result(3) == 2 * value, "%g", product.result(3));
  }
  section("a graph whose ops hold other memory by now does not run");
  product.queue(Product::kMostRows);
  product.setInput(7);
  CHECK(!graph.run(), "it is outdated");
  CHECK(product.result(3) == 10, "nothing has run: %g", product.result(3));
  graph = DeviceGraph(*device, [&] { product.queue(4); });
  CHECK(graph.run() && product.result(3) == 14, "recorded anew: %g", product.result(3));
}

void testGraphWithoutMemory() {
  section("ops that lack memory of their own cannot be recorded, and work all the same");
  setMachine("");
  const auto device = open(0);
  Product product(*device);
  product.setInput(1);
  DeviceGraph graph(*device, [&] { product.queue(4); });
  CHECK(!graph.run(), "it is empty");
  product.queue(4);
  CHECK(product.result(3) == 2, "%g", product.result(3));
  section("a graph for which there is no memory is empty");
  graph = DeviceGraph(*device, [&] {
    product.queue(4);
    setMachine("allocation=1");
  });
  CHECK(!graph.run(), "it is empty");
  section("an op that is refused ends the recording");
  const Failure failure = failureOf([&] { DeviceGraph(*device, [] { throw Failure(PAGODA_UNSUPPORTED, "no"); }); });
  CHECK(failure.status() == PAGODA_UNSUPPORTED, "%d", failure.status());
  bool isThrown = false;
  try {
    DeviceGraph(*device, [] { throw std::bad_alloc(); });
  } catch (const std::bad_alloc&) {
    isThrown = true;
  }
  CHECK(isThrown, "another exception ends it, too");
  product.setInput(4);
  product.queue(4);
  CHECK(product.result(3) == 8, "%g", product.result(3));
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testThreads();
  testClosing();
  testAnyDevice();
  testRetry();
  testBrokenContext();
  for (const int32_t gpu : {0, 1}) testGraphs(gpu);  // products by wgmma and by mma
  testGraphWithoutMemory();
  return finish();
}
