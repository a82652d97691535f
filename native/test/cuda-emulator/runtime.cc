// The emulated runtime: GPUs, memory and errors, good and bad as the setup says (setup.h). Streams do nothing, since
// all is done when a call returns.
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "launch.cuh"
#include "setup.h"
#include "tensor-map.cuh"

/// Kernels with their parameters, as they were launched.
struct EmulatedGraph {
  std::vector<std::function<pagoda::emulator::LaunchResult()>> kernels;
};

struct EmulatedStream {
  int gpu;
  std::unique_ptr<EmulatedGraph> captured;  // while it is
};

namespace {

using pagoda::emulator::Setup;

constexpr int kRuntimeVersion = 13000;
constexpr size_t kSharedBytes = 227 * 1024;

struct Allocation {
  int gpu;
  size_t bytes;
};

/// What the process has of all GPUs.
struct Process {
  std::mutex mutex;
  std::string text;  // of the setup
  Setup setup;
  long numAllocations = 0, numLaunches = 0, numGraphs = 0;  // since the text changed
  std::map<void*, Allocation> allocations;
  std::map<int, cudaError_t> broken;  // GPUs whose context an error has broken
};

/// Locked, with the setup of now.
class Guard {
 public:
  Guard() : lock_(process().mutex) {
    const char* variable = std::getenv("PAGODA_CUDA_EMULATOR");
    const std::string text = variable ? variable : "";
    if (text == process().text) return;
    process().text = text;
    process().setup = pagoda::emulator::readSetup(text);
    process().numAllocations = process().numLaunches = process().numGraphs = 0;
    process().broken.clear();
  }
  Process* operator->() const { return &process(); }

 private:
  // Never destroyed: other libraries may free their memory later.
  static Process& process() {
    static auto* instance = new Process;
    return *instance;
  }
  std::lock_guard<std::mutex> lock_;
};

thread_local cudaError_t lastError = cudaSuccess;
thread_local int currentGpu = 0;

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess) lastError = error;
  return error;
}

bool hasGpu(const Guard& process, int index) {
  return index >= 0 && static_cast<size_t>(index) < process->setup.gpus.size();
}

/// Of the machine before any GPU is asked for.
cudaError_t driverError(const Guard& process) {
  if (process->setup.driver < kRuntimeVersion) return cudaErrorInsufficientDriver;
  return process->setup.gpus.empty() ? cudaErrorNoDevice : cudaSuccess;
}

/// Of whatever uses the current GPU's context.
cudaError_t contextError(const Guard& process) {
  if (const cudaError_t error = driverError(process)) return error;
  const auto broken = process->broken.find(currentGpu);
  return broken == process->broken.end() ? cudaSuccess : broken->second;
}

/// Of what must not be called while the stream is captured.
cudaError_t streamError(const Guard& process, cudaStream_t stream) {
  if (const cudaError_t error = contextError(process)) return error;
  return stream && stream->captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

size_t availableOn(const Guard& process, int gpu) {
  size_t used = 0;
  for (const auto& [address, allocation] : process->allocations)
    if (allocation.gpu == gpu) used += allocation.bytes;
  return process->setup.memory > used ? process->setup.memory - used : 0;
}

}  // namespace

namespace pagoda::emulator {
namespace {

/// What a launch meets before it begins. `runs`: whether the kernel is to run; a fault may have taken its place.
cudaError_t beginLaunch(cudaStream_t stream, bool* runs) {
  const Guard process;
  *runs = false;
  if (const cudaError_t error = contextError(process)) return error;
  if (stream && stream->gpu != currentGpu) return cudaErrorInvalidResourceHandle;
  *runs = !process->setup.launch.hits(++process->numLaunches);
  if (!*runs) process->broken[currentGpu] = cudaErrorIllegalAddress;  // which a later call will tell
  return cudaSuccess;
}

cudaError_t errorOf(LaunchResult result) {
  switch (result) {
    case LaunchResult::ok:
      return cudaSuccess;
    case LaunchResult::invalidShape:
      return cudaErrorInvalidConfiguration;
    case LaunchResult::deadlock:
      return cudaErrorLaunchFailure;
  }
  return cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t launch(cudaStream_t stream, const std::function<LaunchResult()>& kernel) {
  if (stream && stream->captured) {
    stream->captured->kernels.push_back(kernel);
    return cudaSuccess;
  }
  bool runs = false;
  const cudaError_t error = beginLaunch(stream, &runs);
  return note(runs ? errorOf(kernel()) : error);
}

}  // namespace pagoda::emulator

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "emulated error"; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure: threads wait for others that do not come";
    default:
      return "another error";
  }
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = Guard()->setup.driver;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  const Guard process;
  *count = static_cast<int>(process->setup.gpus.size());
  return note(driverError(process));
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Guard process;
  if (!hasGpu(process, device)) return note(cudaErrorInvalidDevice);
  const auto [major, minor] = process->setup.gpus[device];
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? major : minor;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const Guard process;
  if (!hasGpu(process, device)) return note(cudaErrorInvalidDevice);
  const auto [major, minor] = process->setup.gpus[device];
  *properties = {"CUDA emulator on the CPU", major, minor, 2, kSharedBytes};
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = currentGpu;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  const Guard process;
  if (!hasGpu(process, device)) return note(cudaErrorInvalidDevice);
  currentGpu = device;
  return note(contextError(process));
}

cudaError_t cudaDeviceSynchronize() { return note(contextError(Guard())); }

cudaError_t cudaDeviceReset() {
  const Guard process;
  if (process->setup.recovers) process->broken.erase(currentGpu);
  return cudaSuccess;
}

void* pagoda::emulator::findTensorMapEncoder() {
  static char encoder;  // an address; nothing is called through it
  return Guard()->setup.hasTensorMaps ? &encoder : nullptr;
}

cudaError_t pagoda::emulator::functionAttributes(cudaFuncAttributes* attributes) {
  const Guard process;
  *attributes = {};
  if (const cudaError_t error = contextError(process)) return note(error);
  return note(process->setup.hasImage ? cudaSuccess : cudaErrorNoKernelImageForDevice);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Guard process;
  if (const cudaError_t error = contextError(process)) return note(error);
  *stream = new EmulatedStream{currentGpu, nullptr};
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return note(contextError(Guard()));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return note(streamError(Guard(), stream)); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t error = streamError(Guard(), stream)) return note(error);
  if (!stream) return note(cudaErrorStreamCaptureUnsupported);
  stream->captured = std::make_unique<EmulatedGraph>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->captured) return note(cudaErrorInvalidValue);
  *graph = stream->captured.release();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream && stream->captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Guard process;
  if (const cudaError_t error = contextError(process)) return note(error);
  if (process->setup.allocation.hits(++process->numAllocations)) return note(cudaErrorMemoryAllocation);
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  {
    const Guard process;
    if (const cudaError_t error = streamError(process, stream)) return note(error);
    if (process->setup.graph.hits(++process->numGraphs)) process->broken[currentGpu] = cudaErrorIllegalAddress;
  }
  for (const auto& kernel : executable->kernels)
    if (const cudaError_t error = pagoda::emulator::launch(stream, kernel)) return error;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  const Guard process;
  *total = process->setup.memory;
  *available = availableOn(process, currentGpu);
  return note(contextError(process));
}

// Full of NaN, so that what was never written shows.
cudaError_t cudaMalloc(void** address, size_t bytes) {
  constexpr size_t kAlignment = 256;
  const Guard process;
  if (const cudaError_t error = contextError(process)) return note(error);
  const bool fails = process->setup.allocation.hits(++process->numAllocations);
  if (fails || bytes > availableOn(process, currentGpu) || posix_memalign(address, kAlignment, bytes) != 0)
    return note(cudaErrorMemoryAllocation);
  std::memset(*address, 0xff, bytes);
  process->allocations[*address] = {currentGpu, bytes};
  return cudaSuccess;
}

// A broken context frees nothing; here the memory of the host goes back all the same.
cudaError_t cudaFree(void* address) {
  const Guard process;
  if (address && process->allocations.erase(address) == 0) return note(cudaErrorInvalidValue);
  std::free(address);
  return note(contextError(process));
}

cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = streamError(Guard(), stream)) return note(error);
  return cudaMalloc(address, bytes);
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t*, int) { return note(contextError(Guard())); }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return note(contextError(Guard())); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (const cudaError_t error = streamError(Guard(), stream)) return note(error);
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = streamError(Guard(), stream)) return note(error);
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = lastError;
  lastError = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return lastError; }
