// From the machine to a PagodaDevice and back: what GPUs there are, why one cannot be used, and the context that all
// devices of this process on one GPU share.
#pragma once

#include "device.h"

namespace pagoda::cuda {

/// GPUs of this machine, old ones included; PAGODA_UNAVAILABLE with the reason where none can be used.
PagodaStatus deviceCount(int32_t* count, PagodaError* error);

/// A device with a stream of its own. PAGODA_UNAVAILABLE with the reason where the GPU cannot be used.
PagodaStatus openDevice(const PagodaDeviceOptions* options, PagodaDevice** device, PagodaError* error);

/// A device whose work is queued on a stream of the caller's.
PagodaStatus openSharedDevice(int32_t index, cudaStream_t stream, PagodaDevice** device, PagodaError* error);

/// Takes NULL. An error that has made the GPU's context useless is gone once the last device on it is closed, where the
/// driver can make a new context.
void closeDevice(PagodaDevice* device);

/// For calls of the runtime by this thread: which GPU is meant is known thread by thread.
PagodaStatus makeCurrent(const PagodaDevice& device, PagodaError* error);

/// Gives back what ops hold for themselves. The device must be current.
void releaseScratch(PagodaDevice& device);

}  // namespace pagoda::cuda
