// The two forms of latent attention. In the absorbed one, W_UK moves to the query and W_UV behind the sum, so that all
// heads meet the rows of the cache as they are. In the expanded one, keys and values of each head are made of the
// latents; that is less work for many new tokens of a request.
#pragma once

#include "attention.cuh"

namespace pagoda::cuda {

/// The new tokens of a request, as the host knows them.
struct RequestTokens {
  int32_t request;
  int32_t firstToken;  // in the batch
  int32_t tokens;
  int32_t end;  // of the request's positions
};

/// Keys and values of positions [first, end) of a request: from a multiple of kLongSplit to another, or to the
/// request's end. The rope keys are in the cache.
struct ExpandedKeys {
  const uint16_t* keys;    // bf16 [end - first, heads, nopeDim]
  const uint16_t* values;  // bf16 [end - first, heads, valueDim]
  int32_t first, end;
};

/// Whether there is an expanded form of this op: for bf16 caches, heads of 64 to 128 columns and up to 64 of rope, all
/// in eights.
bool canExpand(const PagodaMlaAttention& op);

/// The expanded form for one request.
PagodaStatus attendExpanded(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                            PagodaError* error);

/// Adds these keys to what the result has of those before them; `states` [tokens, heads] are of rows that more keys
/// follow. The first one is for GPUs with wgmma and pages of whole groups of eight tokens; the bits of the two may
/// differ.
PagodaStatus attendExpandedKeysByWgmma(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                                       const ExpandedKeys& keys, SoftmaxState* states, PagodaError* error);
PagodaStatus attendExpandedKeysByMma(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                                     const ExpandedKeys& keys, SoftmaxState* states, PagodaError* error);

}  // namespace pagoda::cuda
