/* The CUDA kernels as a library of their own, for hosts without Node: the same shared library as the plug-in, with two
 * functions. Everything else goes through the table that `pagodaBackend` returns (../backend.h): memory, weights, ops.
 * bench/gpu drives it from Python by ctypes. */
#ifndef PAGODA_CUDA_CAPI_H
#define PAGODA_CUDA_CAPI_H

#include "../backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The table of the backend; never NULL. It can be asked for devices where there is no driver. */
const PagodaBackend* pagodaBackend(void);

/* Opens a device whose work is queued on `stream`, a cudaStream_t of the caller in the device's primary context, so
 * that it is in order with the caller's own. The stream must outlive the device, which `closeDevice` closes. */
PagodaStatus pagodaCudaOpen(int32_t device, void* stream, PagodaDevice** opened, PagodaError* error);

#ifdef __cplusplus
}
#endif
#endif
