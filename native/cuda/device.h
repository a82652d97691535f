// What every CUDA source shares: the device behind PagodaDevice, and errors as status and sentence. Host side only.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>

#include "backend.h"

struct PagodaDevice {
  int index;
  cudaStream_t stream;
};

namespace pagoda::cuda {

PagodaStatus fail(PagodaStatus status, const char* message, PagodaError* error);

/// PAGODA_OK, or the status that fits a CUDA error, with its name in the message.
PagodaStatus check(cudaError_t result, const char* what, PagodaError* error);

PagodaStatus rmsNorm(PagodaDevice* device, const PagodaRmsNorm* op, PagodaError* error);

}  // namespace pagoda::cuda
