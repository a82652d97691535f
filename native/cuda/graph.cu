// Graphs of the runtime: ops as they were queued while the stream was captured.
#include <new>

#include "open-device.h"

struct PagodaGraph {
  cudaGraphExec_t executable;
  int64_t moves;  // of the device's scratch memory when it was recorded
};

namespace pagoda::cuda {
namespace {

int64_t scratchMoves(const PagodaDevice& device) {
  return device.scratch.moves() + device.rounded.moves() + device.latents.moves();
}

}  // namespace

PagodaStatus beginGraph(PagodaDevice* device, PagodaError* error) {
  return check(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal), "beginGraph", error);
}

PagodaStatus endGraph(PagodaDevice* device, PagodaGraph** graph, PagodaError* error) {
  *graph = nullptr;
  cudaGraph_t recorded = nullptr;
  if (const PagodaStatus status = check(cudaStreamEndCapture(device->stream, &recorded), "endGraph", error))
    return status;
  cudaGraphExec_t executable = nullptr;
  const cudaError_t result = cudaGraphInstantiate(&executable, recorded, 0);
  cudaGraphDestroy(recorded);
  if (const PagodaStatus status = check(result, "endGraph", error)) return status;
  *graph = new (std::nothrow) PagodaGraph{executable, scratchMoves(*device)};
  if (*graph) return PAGODA_OK;
  cudaGraphExecDestroy(executable);
  return fail(PAGODA_OUT_OF_MEMORY, "Out of host memory", error);
}

PagodaStatus runGraph(PagodaDevice* device, PagodaGraph* graph, int32_t* isOutdated, PagodaError* error) {
  *isOutdated = graph->moves != scratchMoves(*device);
  if (*isOutdated) return PAGODA_OK;
  return check(cudaGraphLaunch(graph->executable, device->stream), "runGraph", error);
}

void releaseGraph(PagodaDevice* device, PagodaGraph* graph) {
  if (!graph) return;
  makeCurrent(*device, nullptr);
  cudaGraphExecDestroy(graph->executable);
  cudaGetLastError();
  delete graph;
}

}  // namespace pagoda::cuda
