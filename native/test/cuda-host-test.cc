// The host side of the CUDA plug-in on emulated GPUs, good and bad ones (cuda-emulator/setup.h): threads, devices,
// memory.
#include <cstdlib>
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

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testThreads();
  testClosing();
  testAnyDevice();
  testRetry();
  testBrokenContext();
  return finish();
}
