// Cuts the tokens of a latent attention into passes.
#ifndef PAGODA_CPU_MLA_PASSES_H
#define PAGODA_CPU_MLA_PASSES_H

#include <vector>

#include "mla-pass.h"

namespace pagoda {

class MlaPasses {
 public:
  // They hold until the next call. Throws std::bad_alloc.
  const std::vector<MlaPass>& cut(const PagodaMlaAttention& op);

 private:
  // Tokens [first, first + tokens) of those that a request has in the step.
  struct Piece {
    int32_t request;
    int32_t first;
    int32_t tokens;
  };
  // What the pointers of a pass point to.
  struct Arrays {
    std::vector<int32_t> queryStartLoc, seqLens, rows;
  };

  // Makes a pass of the pieces, which are in the order of their requests, and drops them.
  void put(const PagodaMlaAttention& op, bool isExpanded);

  std::vector<Piece> pieces_;
  std::vector<Arrays> arrays_;
  std::vector<MlaPass> passes_;
};

}  // namespace pagoda

#endif
