// How the tokens of a latent attention are cut into passes: what mla-passes.h decides and mla-attention.cc runs. A pass
// needs workspace for its own tokens only. Which pass a token is in decides no bit of its result; which form it is
// computed in follows from the number of tokens of its request.
#ifndef PAGODA_CPU_MLA_PASS_H
#define PAGODA_CPU_MLA_PASS_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

struct MlaPass {
  bool isExpanded;      // all tokens are then of one request
  PagodaBatch batch;    // all requests of the op, of which some have no tokens in this pass
  const int32_t* rows;  // [batch.numTokens], in the operands of the op
};

// The attention of a pass in the absorbed form, without its tensors: all heads are a group of one KV head.
static inline PagodaAttention absorbedAttention(const PagodaMlaAttention& op, const MlaPass& pass) {
  return {{}, {}, op.cache, pass.batch, op.numHeads, op.scale, 0, 0.0f, {}};
}

}  // namespace pagoda

#endif
