#include "mla-passes.h"

#include <algorithm>

namespace pagoda {
namespace {

// Of the queries and outputs in latent space.
constexpr int64_t kAbsorbedBytes = 64 << 20;
// Of a request in expanded form: a pass makes keys and values of the whole prefix again.
constexpr int32_t kExpandedTokens = 4096;

int32_t queryLength(const PagodaBatch& batch, int32_t request) {
  return batch.queryStartLoc[request + 1] - batch.queryStartLoc[request];
}

bool isExpanded(const PagodaMlaAttention& op, int32_t request) {
  return op.expandFrom > 0 && queryLength(op.batch, request) >= op.expandFrom;
}

// Tokens of a pass in absorbed form: a query [latentDim + ropeDim] and a packed row of at most f32 for each head.
int32_t absorbedTokens(const PagodaMlaAttention& op) {
  const int64_t rowBytes = static_cast<int64_t>(sizeof(float)) * op.numHeads;
  const int64_t packed = std::max(op.query.width / op.numHeads, op.cache.latentDim);
  return static_cast<int32_t>(std::max<int64_t>(1, kAbsorbedBytes / (rowBytes * (op.cache.headDim + packed))));
}

}  // namespace

void MlaPasses::put(const PagodaMlaAttention& op, bool isExpanded) {
  if (pieces_.empty()) return;
  const PagodaBatch& batch = op.batch;
  Arrays arrays = {{0}, {batch.seqLens, batch.seqLens + batch.numRequests}, {}};
  auto piece = pieces_.begin();
  for (int32_t r = 0; r < batch.numRequests; ++r) {
    if (piece != pieces_.end() && piece->request == r) {
      const int32_t first = batch.queryStartLoc[r] + piece->first;
      for (int32_t t = 0; t < piece->tokens; ++t) arrays.rows.push_back(first + t);
      arrays.seqLens[r] -= queryLength(batch, r) - (piece->first + piece->tokens);
      ++piece;
    }
    arrays.queryStartLoc.push_back(static_cast<int32_t>(arrays.rows.size()));
  }
  pieces_.clear();
  MlaPass pass = {isExpanded, batch, arrays.rows.data()};
  pass.batch.numTokens = static_cast<int32_t>(arrays.rows.size());
  pass.batch.queryStartLoc = arrays.queryStartLoc.data();
  pass.batch.seqLens = arrays.seqLens.data();
  pass.batch.hostQueryStartLoc = pass.batch.queryStartLoc;
  pass.batch.hostSeqLens = pass.batch.seqLens;
  passes_.push_back(pass);
  arrays_.push_back(std::move(arrays));
}

const std::vector<MlaPass>& MlaPasses::cut(const PagodaMlaAttention& op) {
  passes_.clear();
  arrays_.clear();
  int32_t room = absorbedTokens(op);
  for (int32_t r = 0; r < op.batch.numRequests; ++r) {
    if (isExpanded(op, r)) continue;
    const int32_t length = queryLength(op.batch, r);
    for (int32_t first = 0, n = 0; first < length; first += n) {
      n = std::min(room, length - first);
      pieces_.push_back({r, first, n});
      room -= n;
      if (room > 0) continue;
      put(op, false);
      room = absorbedTokens(op);
    }
  }
  put(op, false);
  for (int32_t r = 0; r < op.batch.numRequests; ++r) {
    if (!isExpanded(op, r)) continue;
    const int32_t length = queryLength(op.batch, r);
    for (int32_t first = 0; first < length; first += kExpandedTokens) {
      pieces_.push_back({r, first, std::min(kExpandedTokens, length - first)});
      put(op, true);
    }
  }
  return passes_;
}

}  // namespace pagoda
