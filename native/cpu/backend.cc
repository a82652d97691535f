// The backend table: one device, the machine's processor. Ops run to their end before they return, so `synchronize` has
// nothing to wait for.
#include "backend.h"

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <system_error>

#include "../block-formats.h"
#include "attention-scheduler.h"
#include "fresh-pages.h"
#include "isa.h"
#include "kernels.h"
#include "kv-layout.h"
#include "memory.h"
#include "mla-passes.h"
#include "pack-quantized.h"
#include "pack.h"
#include "rope-table.h"
#include "sample.h"
#include "status.h"
#include "threads.h"
#include "validate.h"

struct PagodaDevice {
  PagodaDevice(const pagoda::KernelTable* table, int32_t threads) : kernels(table), pool(threads) {}

  const pagoda::KernelTable* kernels;
  pagoda::ThreadPool pool;
  pagoda::ScratchBuffer scratch;
  pagoda::FreshPages pages;
  pagoda::AttentionScheduler attentionScheduler;
  pagoda::MlaPasses mlaPasses;
};

namespace pagoda {
namespace {

constexpr int32_t kMaxThreads = 64;

PagodaStatus outOfMemory(PagodaError* error, uint64_t bytes) {
  return fail(error, PAGODA_OUT_OF_MEMORY, "Could not allocate %llu bytes of host memory",
              static_cast<unsigned long long>(bytes));
}

// ---- device ----------------------------------------------------------------------------------------

PagodaStatus deviceCount(int32_t* count, PagodaError*) {
  *count = 1;
  return PAGODA_OK;
}

// The named instruction set, or the best one that the machine has.
PagodaStatus chooseKernels(const char* name, const KernelTable** kernels, PagodaError* error) {
  Isa isas[kMaxIsas];
  const size_t count = listIsas(isas, kMaxIsas);
  std::string names;
  for (size_t i = 0; i < count; ++i) {
    if (!isas[i].available) continue;
    *kernels = isas[i].kernels;
    if (name == nullptr || *name == '\0' || std::strcmp(name, isas[i].kernels->isa) == 0) return PAGODA_OK;
    names += (names.empty() ? "" : ", ") + std::string(isas[i].kernels->isa);
  }
  return fail(error, PAGODA_UNAVAILABLE, "Expected one of %s for `isa` but received \"%.64s\"", names.c_str(), name);
}

PagodaStatus createDevice(const PagodaDeviceOptions& options, PagodaDevice** device, PagodaError* error) {
  if (options.device != 0) {
    return fail(error, PAGODA_UNAVAILABLE, "Expected 0 for `device` but received %d: there is one CPU device",
                options.device);
  }
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return fail(error, PAGODA_INVALID, "Expected 0 to %d for `threads` but received %d", kMaxThreads, options.threads);
  }
  const KernelTable* kernels = nullptr;
  const PagodaStatus status = chooseKernels(options.isa, &kernels, error);
  if (status != PAGODA_OK) return status;
  *device = new PagodaDevice(kernels, options.threads > 0 ? options.threads : defaultThreads());
  return PAGODA_OK;
}

PagodaStatus openDevice(const PagodaDeviceOptions* options, PagodaDevice** device, PagodaError* error) {
  *device = nullptr;
  try {
    return createDevice(*options, device, error);
  } catch (const std::bad_alloc&) {
    return fail(error, PAGODA_OUT_OF_MEMORY, "Could not allocate memory for a CPU device");
  } catch (const std::exception& exception) {
    return fail(error, PAGODA_FAILED, "Could not start the threads of a CPU device: %s", exception.what());
  }
}

void closeDevice(PagodaDevice* device) { delete device; }

// "model name" of /proc/cpuinfo, where there is one.
void readProcessorName(char* name, size_t size) {
  std::snprintf(name, size, "CPU");
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/cpuinfo", "r"), std::fclose);
  char line[256];
  while (file != nullptr && std::fgets(line, sizeof line, file.get()) != nullptr) {
    const char* colon = std::strchr(line, ':');
    if (std::strncmp(line, "model name", 10) != 0 || colon == nullptr) continue;
    std::snprintf(name, size, "%.*s", static_cast<int>(std::strcspn(colon + 2, "\n")), colon + 2);
    return;
  }
}

PagodaStatus deviceInfo(PagodaDevice* device, PagodaDeviceInfo* info, PagodaError*) {
  *info = {};
  readProcessorName(info->name, sizeof info->name);
  std::snprintf(info->isa, sizeof info->isa, "%s", device->kernels->isa);
  const MemoryInfo memory = memoryInfo();
  info->totalMemory = memory.total;
  info->availableMemory = memory.available;
  info->threads = device->pool.threads();
  return PAGODA_OK;
}

// ---- memory ----------------------------------------------------------------------------------------

PagodaStatus allocate(PagodaDevice* device, uint64_t bytes, void** address, PagodaError* error) {
  *address = allocateAligned(bytes, device->pages.largeOnesAreQuick());
  return *address != nullptr ? PAGODA_OK : outOfMemory(error, bytes);
}

void release(PagodaDevice*, void* address) { releaseAligned(address); }

PagodaStatus copy(PagodaDevice*, void* to, const void* from, uint64_t bytes, PagodaError* error) {
  if (bytes == 0) return PAGODA_OK;
  if (to == nullptr || from == nullptr) return fail(error, PAGODA_INVALID, "Expected two addresses but received NULL");
  std::memmove(to, from, bytes);
  return PAGODA_OK;
}

PagodaStatus fill(PagodaDevice* device, void* to, uint8_t value, uint64_t bytes, PagodaError* error) {
  if (bytes == 0) return PAGODA_OK;
  if (to == nullptr) return fail(error, PAGODA_INVALID, "Expected an address but received NULL");
  device->pages.prepare(to, bytes, 0, bytes, device->pool);
  std::memset(to, value, bytes);
  return PAGODA_OK;
}

PagodaStatus synchronize(PagodaDevice*, PagodaError*) { return PAGODA_OK; }

// ---- weights and cache -----------------------------------------------------------------------------

PagodaStatus weightBytes(PagodaDevice* device, const PagodaWeight* weight, uint64_t* bytes, PagodaError* error) {
  const PagodaStatus status = validateWeight(*weight, error);
  if (status != PAGODA_OK) return status;
  if (packedBytes(*weight, *device->kernels, bytes)) return PAGODA_OK;
  return fail(error, PAGODA_INVALID, "A weight of %d by %d is too large", weight->rows, weight->cols);
}

PagodaStatus prepareWeight(PagodaDevice* device, const PagodaWeight* weight, int32_t rowStart, int32_t rows,
                           const void* source, PagodaDtype sourceDtype, PagodaError* error) {
  const PagodaStatus status = validateWeight(*weight, error);
  if (status != PAGODA_OK) return status;
  if (weight->data == nullptr || source == nullptr) {
    return fail(error, PAGODA_INVALID, "Expected addresses for `weight` and `source` but received NULL");
  }
  if (rowStart < 0 || rows < 0 || rows > weight->rows - rowStart) {
    return fail(error, PAGODA_INVALID, "Expected rows within 0 to %d but received %d rows from %d", weight->rows, rows,
                rowStart);
  }
  if (!canPack(weight->dtype, sourceDtype)) {
    return fail(error, PAGODA_UNSUPPORTED, "A source of dtype %d cannot become a weight of dtype %d",
                static_cast<int>(sourceDtype), static_cast<int>(weight->dtype));
  }
  if (weight->cols % blockFormat(sourceDtype).columns != 0) {
    return fail(error, PAGODA_INVALID, "Expected a multiple of %d columns for dtype %d but received %d",
                blockFormat(sourceDtype).columns, static_cast<int>(sourceDtype), weight->cols);
  }
  uint64_t size = 0;  // fits, since the weight has been allocated
  packedBytes(*weight, *device->kernels, &size);
  const double rowBytes = static_cast<double>(size) / weight->rows;
  const auto begin = static_cast<uint64_t>(rowStart * rowBytes);
  const auto end = static_cast<uint64_t>((static_cast<double>(rowStart) + rows) * rowBytes);
  device->pages.prepare(weight->data, size, begin, end, device->pool);
  packRows(*weight, *device->kernels, rowStart, rows, source, sourceDtype, device->pool);
  return PAGODA_OK;
}

PagodaStatus kvBlockBytes(PagodaDevice*, const PagodaKvCache* cache, uint64_t* bytes, PagodaError* error) {
  const PagodaStatus status = validateCache(*cache, error);
  if (status == PAGODA_OK) *bytes = static_cast<uint64_t>(pagoda::kvBlockBytes(*cache));
  return status;
}

// ---- ops -------------------------------------------------------------------------------------------

// Checks the parameters, provides the scratch that `scratchBytes` names, runs the kernel.
template <class Op, class ScratchBytes, class Kernel>
PagodaStatus runOp(PagodaDevice* device, const Op& op, PagodaError* error, ScratchBytes scratchBytes, Kernel kernel) {
  const PagodaStatus status = validate(op, error);
  if (status != PAGODA_OK) return status;
  const uint64_t bytes = scratchBytes(op, device->pool.threads());
  void* scratch = bytes > 0 ? device->scratch.reserve(bytes) : nullptr;
  if (bytes > 0 && scratch == nullptr) return outOfMemory(error, bytes);
  kernel(KernelContext{&device->pool, scratch}, op);
  return PAGODA_OK;
}

template <class Op>
uint64_t noScratch(const Op&, int32_t) {
  return 0;
}

PagodaStatus embed(PagodaDevice* device, const PagodaEmbed* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaEmbed>, device->kernels->embed);
}

PagodaStatus rmsNorm(PagodaDevice* device, const PagodaRmsNorm* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaRmsNorm>, device->kernels->rmsNorm);
}

PagodaStatus linear(PagodaDevice* device, const PagodaLinear* op, PagodaError* error) {
  return runOp(device, *op, error, device->kernels->linearScratch, device->kernels->linear);
}

PagodaStatus runRopeTable(PagodaDevice* device, const PagodaRopeTable* op, PagodaError* error) {
  auto kernel = [](const KernelContext& context, const PagodaRopeTable& op) { ropeTable(*context.pool, op); };
  return runOp(device, *op, error, noScratch<PagodaRopeTable>, kernel);
}

PagodaStatus rope(PagodaDevice* device, const PagodaRope* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaRope>, device->kernels->rope);
}

PagodaStatus cacheWrite(PagodaDevice* device, const PagodaCacheWrite* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaCacheWrite>, device->kernels->cacheWrite);
}

PagodaStatus copyBlocks(PagodaDevice* device, const PagodaCopyBlocks* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaCopyBlocks>, device->kernels->copyBlocks);
}

PagodaStatus attention(PagodaDevice* device, const PagodaAttention* op, PagodaError* error) {
  AttentionSchedule schedule = {};
  const auto scratchBytes = [&](const PagodaAttention& op, int32_t threads) {
    schedule = device->attentionScheduler.schedule(op, threads);
    return device->kernels->attentionScratch(op, schedule, threads);
  };
  const auto kernel = [&](const KernelContext& context, const PagodaAttention& op) {
    device->kernels->attention(context, op, schedule);
  };
  try {
    return runOp(device, *op, error, scratchBytes, kernel);
  } catch (const std::bad_alloc&) {
    return fail(error, PAGODA_OUT_OF_MEMORY, "Could not allocate memory for the schedule of attention");
  }
}

PagodaStatus latentWrite(PagodaDevice* device, const PagodaLatentWrite* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaLatentWrite>, device->kernels->latentWrite);
}

PagodaStatus runMlaPass(PagodaDevice* device, const PagodaMlaAttention& op, const MlaPass& pass, PagodaError* error) {
  const int32_t threads = device->pool.threads();
  AttentionSchedule schedule = {};
  if (!pass.isExpanded) schedule = device->attentionScheduler.schedule(absorbedAttention(op, pass), threads);
  const uint64_t bytes = device->kernels->mlaAttentionScratch(op, pass, schedule, threads);
  void* scratch = device->scratch.reserve(bytes);
  if (scratch == nullptr) return outOfMemory(error, bytes);
  device->kernels->mlaAttention({&device->pool, scratch}, op, pass, schedule);
  return PAGODA_OK;
}

PagodaStatus mlaAttention(PagodaDevice* device, const PagodaMlaAttention* op, PagodaError* error) {
  PagodaStatus status = validate(*op, error);
  if (status != PAGODA_OK) return status;
  try {
    for (const MlaPass& pass : device->mlaPasses.cut(*op)) {
      status = runMlaPass(device, *op, pass, error);
      if (status != PAGODA_OK) return status;
    }
    return PAGODA_OK;
  } catch (const std::bad_alloc&) {
    return fail(error, PAGODA_OUT_OF_MEMORY, "Could not allocate memory for the schedule of attention");
  }
}

// Of layout NZ: a row a worker.
uint64_t gatherKvScratch(const PagodaGatherKv& op, int32_t threads) {
  return op.layout == PAGODA_ND ? 0 : sizeof(float) * static_cast<uint64_t>(threads) * op.out.width;
}

PagodaStatus gatherKv(PagodaDevice* device, const PagodaGatherKv* op, PagodaError* error) {
  return runOp(device, *op, error, gatherKvScratch, device->kernels->gatherKv);
}

PagodaStatus gatedActivation(PagodaDevice* device, const PagodaGatedActivation* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaGatedActivation>, device->kernels->gatedActivation);
}

PagodaStatus add(PagodaDevice* device, const PagodaAdd* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaAdd>, device->kernels->add);
}

PagodaStatus route(PagodaDevice* device, const PagodaRoute* op, PagodaError* error) {
  return runOp(device, *op, error, device->kernels->routeScratch, device->kernels->route);
}

PagodaStatus experts(PagodaDevice* device, const PagodaExperts* op, PagodaError* error) {
  return runOp(device, *op, error, device->kernels->expertsScratch, device->kernels->experts);
}

PagodaStatus takeRows(PagodaDevice* device, const PagodaTakeRows* op, PagodaError* error) {
  return runOp(device, *op, error, noScratch<PagodaTakeRows>, device->kernels->takeRows);
}

PagodaStatus runSample(PagodaDevice* device, const PagodaSample* op, PagodaError* error) {
  auto kernel = [](const KernelContext& context, const PagodaSample& op) {
    sample(*context.pool, context.scratch, op);
  };
  return runOp(device, *op, error, sampleScratch, kernel);
}

constexpr PagodaBackend kBackend = {
    .abiVersion = PAGODA_ABI_VERSION,
    .structSize = sizeof(PagodaBackend),
    .name = "cpu",
    .deviceCount = deviceCount,
    .openDevice = openDevice,
    .closeDevice = closeDevice,
    .deviceInfo = deviceInfo,
    .allocate = allocate,
    .release = release,
    .copyToDevice = copy,
    .copyToHost = copy,
    .fill = fill,
    .synchronize = synchronize,
    .weightBytes = weightBytes,
    .prepareWeight = prepareWeight,
    .kvBlockBytes = kvBlockBytes,
    .embed = embed,
    .rmsNorm = rmsNorm,
    .linear = linear,
    .ropeTable = runRopeTable,
    .rope = rope,
    .cacheWrite = cacheWrite,
    .copyBlocks = copyBlocks,
    .attention = attention,
    .latentWrite = latentWrite,
    .mlaAttention = mlaAttention,
    .gatherKv = gatherKv,
    .gatedActivation = gatedActivation,
    .add = add,
    .route = route,
    .experts = experts,
    .takeRows = takeRows,
    .sample = runSample,
    .beginGraph = nullptr,
    .endGraph = nullptr,
    .runGraph = nullptr,
    .releaseGraph = nullptr,
};

}  // namespace
}  // namespace pagoda

extern "C" const PagodaBackend* pagodaCpuBackend(void) { return &pagoda::kBackend; }
