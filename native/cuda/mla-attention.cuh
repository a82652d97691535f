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

/// Attention of one request to such keys. Queries have the columns of K, but the rope part comes from a tensor of its
/// own; in shared memory it is behind kNopeColumns, to which the other one is padded.
struct ExpandedAttention {
  static constexpr int kNopeColumns = 128;

  PagodaAttention op;  // of the request alone, as if a cache had a KV head of valueDim columns for each query head
  PagodaMlaAttention source;
  RequestTokens request;
  ExpandedKeys keys;
  SoftmaxState* states;  // [tokens, heads], of rows that more keys follow

  __host__ __device__ int nopeDim() const { return source.query.width / source.numHeads; }
  __host__ __device__ int ropeDim() const { return source.cache.headDim - source.cache.latentDim; }
  __host__ __device__ int valueDim() const { return op.cache.headDim; }

  __device__ const int32_t* blocks() const {
    return source.batch.blockTable + static_cast<int64_t>(request.request) * source.batch.maxBlocks;
  }
  /// Tile `index` of `rows` tokens.
  __device__ QueryTile tile(int index, int rows) const {
    const int first = index * rows;
    return {0, first, min(rows, request.tokens - first), request.firstToken, request.end - request.tokens};
  }
  /// Where the columns from `column` on, as they lie in shared memory, of a row of q are; NULL where there are none.
  __device__ const float* queryAt(const GroupTile& work, int row, int column) const {
    const bool isRope = column >= kNopeColumns;
    const int dim = isRope ? ropeDim() : nopeDim(), own = isRope ? column - kNopeColumns : column;
    if (own >= dim) return nullptr;
    const float* all = rowOf(isRope ? source.queryRope : source.query, work.tile.firstToken + work.token(row));
    return all + static_cast<int64_t>(work.head(row)) * dim + own;
  }
  __device__ SoftmaxState* stateOf(const GroupTile& work, int row) const {
    return states + static_cast<int64_t>(work.token(row)) * source.numHeads + work.head(row);
  }
};

/// Whether there is an expanded form of this op: for bf16 caches, heads of 64 to 128 columns and up to 64 of rope, all
/// in eights.
bool canExpand(const PagodaMlaAttention& op);

/// The expanded form for one request.
PagodaStatus attendExpanded(PagodaDevice* device, const PagodaMlaAttention& op, const RequestTokens& request,
                            PagodaError* error);

/// Adds these keys to what the result has of those before them. The first one is for GPUs with wgmma and pages of whole
/// groups of eight tokens; the bits of the two may differ.
PagodaStatus attendExpandedKeysByWgmma(PagodaDevice* device, const ExpandedAttention& attention, PagodaError* error);
PagodaStatus attendExpandedKeysByMma(PagodaDevice* device, const ExpandedAttention& attention, PagodaError* error);

}  // namespace pagoda::cuda
