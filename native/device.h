// RAII over the C table of backend.h: a device, and memory on it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "backend.h"
#include "failure.h"

namespace pagoda {

class Device {
 public:
  Device(const PagodaBackend* backend, const PagodaDeviceOptions& options) : backend_(backend) {
    PagodaError error = {};
    const PagodaStatus status = backend_->openDevice(&options, &handle_, &error);
    error.message[PAGODA_ERROR_LENGTH - 1] = '\0';
    if (status != PAGODA_OK) throw Failure(status, error.message);
  }
  ~Device() { backend_->closeDevice(handle_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const PagodaBackend& backend() const { return *backend_; }

  /// Calls `function(error)` and throws, naming `what`, unless it returns PAGODA_OK.
  template <typename Function>
  static void call(const std::string& what, Function&& function) {
    PagodaError error = {};
    const PagodaStatus status = function(&error);
    if (status == PAGODA_OK) return;
    error.message[PAGODA_ERROR_LENGTH - 1] = '\0';
    throw Failure(status, "[" + what + "] " + error.message);
  }

  /// Runs an op or another function of the table that takes (device, parameters, error).
  template <typename Parameters>
  void run(const std::string& what, PagodaStatus (*function)(PagodaDevice*, const Parameters*, PagodaError*),
           const Parameters& parameters) {
    call(what, [&](PagodaError* error) { return function(handle_, &parameters, error); });
  }

  PagodaDeviceInfo info() {
    PagodaDeviceInfo info = {};
    call("deviceInfo", [&](PagodaError* error) { return backend_->deviceInfo(handle_, &info, error); });
    return info;
  }

  void* allocate(const std::string& what, uint64_t bytes) {
    void* address = nullptr;
    call(what, [&](PagodaError* error) { return backend_->allocate(handle_, bytes, &address, error); });
    return address;
  }
  void release(void* address) { backend_->release(handle_, address); }

  void copyToDevice(void* to, const void* from, uint64_t bytes) {
    if (bytes == 0) return;
    call("copyToDevice", [&](PagodaError* error) { return backend_->copyToDevice(handle_, to, from, bytes, error); });
  }
  void copyToHost(void* to, const void* from, uint64_t bytes) {
    if (bytes == 0) return;
    call("copyToHost", [&](PagodaError* error) { return backend_->copyToHost(handle_, to, from, bytes, error); });
  }
  void fill(void* to, uint8_t value, uint64_t bytes) {
    if (bytes == 0) return;
    call("fill", [&](PagodaError* error) { return backend_->fill(handle_, to, value, bytes, error); });
  }
  void synchronize() {
    call("synchronize", [&](PagodaError* error) { return backend_->synchronize(handle_, error); });
  }

  bool hasGraphs() const { return backend_->beginGraph != nullptr; }
  void beginGraph() {
    call("beginGraph", [&](PagodaError* error) { return backend_->beginGraph(handle_, error); });
  }
  PagodaGraph* endGraph() {
    PagodaGraph* graph = nullptr;
    call("endGraph", [&](PagodaError* error) { return backend_->endGraph(handle_, &graph, error); });
    return graph;
  }
  /// Whether it was up to date and so runs.
  bool runGraph(PagodaGraph* graph) {
    int32_t isOutdated = 0;
    call("runGraph", [&](PagodaError* error) { return backend_->runGraph(handle_, graph, &isOutdated, error); });
    return isOutdated == 0;
  }
  void releaseGraph(PagodaGraph* graph) { backend_->releaseGraph(handle_, graph); }

  uint64_t weightBytes(const PagodaWeight& weight) {
    uint64_t bytes = 0;
    call("weightBytes", [&](PagodaError* error) { return backend_->weightBytes(handle_, &weight, &bytes, error); });
    return bytes;
  }
  void prepareWeight(const std::string& what, const PagodaWeight& weight, int32_t rowStart, int32_t rows,
                     const void* source, PagodaDtype dtype) {
    call(what, [&](PagodaError* error) {
      return backend_->prepareWeight(handle_, &weight, rowStart, rows, source, dtype, error);
    });
  }
  uint64_t kvBlockBytes(const PagodaKvCache& cache) {
    uint64_t bytes = 0;
    call("kvBlockBytes", [&](PagodaError* error) { return backend_->kvBlockBytes(handle_, &cache, &bytes, error); });
    return bytes;
  }

 private:
  const PagodaBackend* backend_;
  PagodaDevice* handle_ = nullptr;
};

/// Ops that a device has recorded (backend.h); must not outlive it.
class DeviceGraph {
 public:
  DeviceGraph() = default;
  /// Records what `queueOps` queues, on a backend that has graphs. Empty where there is no memory for it.
  template <typename QueueOps>
  DeviceGraph(Device& device, QueueOps&& queueOps) : device_(&device) {
    device.beginGraph();
    try {
      queueOps();
    } catch (const Failure& failure) {
      discardRecording();
      if (failure.status() != PAGODA_OUT_OF_MEMORY) throw;
      return;
    } catch (...) {
      discardRecording();
      throw;
    }
    try {
      graph_ = device.endGraph();
    } catch (const Failure& failure) {
      if (failure.status() != PAGODA_OUT_OF_MEMORY) throw;
    }
  }
  ~DeviceGraph() {
    if (graph_) device_->releaseGraph(graph_);
  }
  DeviceGraph(DeviceGraph&& other) noexcept { swap(other); }
  DeviceGraph& operator=(DeviceGraph&& other) noexcept {
    DeviceGraph(std::move(other)).swap(*this);
    return *this;
  }

  /// False, and nothing has run, where it is empty or outdated.
  bool run() { return graph_ && device_->runGraph(graph_); }

 private:
  // A recording that an error has ended already is not missed.
  void discardRecording() noexcept {
    try {
      device_->releaseGraph(device_->endGraph());
    } catch (const Failure&) {
    }
  }

  void swap(DeviceGraph& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(graph_, other.graph_);
  }

  Device* device_ = nullptr;
  PagodaGraph* graph_ = nullptr;
};

/// Memory on a device; must not outlive it.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Device& device, const std::string& what, uint64_t bytes)
      : device_(&device), address_(device.allocate(what, bytes)), bytes_(bytes) {}
  ~DeviceMemory() {
    if (device_) device_->release(address_);
  }
  DeviceMemory(DeviceMemory&& other) noexcept { swap(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    DeviceMemory(std::move(other)).swap(*this);
    return *this;
  }

  void* at(uint64_t offset) const { return static_cast<char*>(address_) + offset; }
  uint64_t bytes() const { return bytes_; }

 private:
  void swap(DeviceMemory& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
  }

  Device* device_ = nullptr;
  void* address_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace pagoda
