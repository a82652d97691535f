// The tokens that may be drawn for one row, and the filters that drop some of them. Probabilities are in double and not
// normalised: weight = exp((logit - largest logit) / temperature), so that the most probable token has weight 1.
#ifndef PAGODA_CPU_CANDIDATES_H
#define PAGODA_CPU_CANDIDATES_H

#include <stdint.h>

namespace pagoda {

struct Candidate {
  double weight;
  int32_t token;
};

// By weight, the lowest token first among equals.
inline bool heavier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// One row's logits as they are drawn from.
struct DrawnLogits {
  const float* values;  // [vocab]
  float largest;
  double temperature;  // > 0

  // ln of the token's weight.
  double scaled(int32_t token) const {
    return (static_cast<double>(values[token]) - static_cast<double>(largest)) / temperature;
  }
};

// Tokens whose probability is not zero and at least minP times the largest; never none, as the largest has weight 1.
int32_t collect(const DrawnLogits& logits, int32_t vocab, double minP, Candidate* into);

// Each keeps some of the candidates [0, count), in any order, and returns how many: at least one.
int32_t keepTopK(Candidate* candidates, int32_t count, int32_t k, const DrawnLogits& logits);
int32_t keepTypicalP(Candidate* candidates, int32_t count, double typicalP, const DrawnLogits& logits);
int32_t keepTopP(Candidate* candidates, int32_t count, double topP);
// XTC, once it was decided that it happens.
int32_t dropTopChoices(Candidate* candidates, int32_t count, double threshold);

}  // namespace pagoda

#endif
