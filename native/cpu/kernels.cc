#include "isa-kernels.h"

#define PAGODA_TEXT(name) #name
#define PAGODA_NAME_OF(name) PAGODA_TEXT(name)

namespace pagoda::PAGODA_ISA {

extern const KernelTable kKernels;
const KernelTable kKernels = {
    .isa = PAGODA_NAME_OF(PAGODA_ISA),
    .panelWidth = kPanelWidth,
    .byteOffset = kByteOffset,
    .linearScratch = linearScratch,
    .attentionScratch = attentionScratch,
    .mlaAttentionScratch = mlaAttentionScratch,
    .routeScratch = routeScratch,
    .expertsScratch = expertsScratch,
    .embed = embed,
    .rmsNorm = rmsNorm,
    .linear = linear,
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
    .quantizeBlock = quantizeBlock,
};

}  // namespace pagoda::PAGODA_ISA
