// Counter-based random numbers. Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
#ifndef PAGODA_CPU_PHILOX_H
#define PAGODA_CPU_PHILOX_H

#include <stdint.h>

namespace pagoda {

struct PhiloxBlock {
  uint32_t x[4];
};

// Philox4x32-10.
inline PhiloxBlock philox(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter.x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter.x[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.x[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.x[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// In (0, 1).
inline double toUniform(uint32_t word) { return (static_cast<double>(word >> 8) + 0.5) / 16777216.0; }

// The uniform numbers of one row: one a token, and one for the XTC filter.
class Uniforms {
 public:
  Uniforms(const uint32_t* seed, int32_t position) : seed_(seed), position_(static_cast<uint32_t>(position)) {}

  double of(int32_t token) {
    const uint32_t group = static_cast<uint32_t>(token) / 4;
    if (!filled_ || group != group_) {
      block_ = philox({{group, position_, 0, 0}}, seed_[0], seed_[1]);
      group_ = group;
      filled_ = true;
    }
    return toUniform(block_.x[token % 4]);
  }

  double ofXtc() const { return toUniform(philox({{0, position_, 1, 0}}, seed_[0], seed_[1]).x[0]); }

 private:
  const uint32_t* seed_;
  uint32_t position_;
  uint32_t group_ = 0;
  bool filled_ = false;
  PhiloxBlock block_ = {};
};

}  // namespace pagoda

#endif
