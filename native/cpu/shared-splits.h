// Which query tiles of a batch attend to the same splits in the same blocks: found in the block tables alone. Requests
// come to share blocks by forks and by the prefix cache, so what they share is mostly a tree of prefixes, but nothing
// here depends on that.
#ifndef PAGODA_CPU_SHARED_SPLITS_H
#define PAGODA_CPU_SHARED_SPLITS_H

#include <vector>

#include "attention-schedule.h"

namespace pagoda {

// Two or more query tiles, all tokens of which attend to all keys of splits [firstSplit, endSplit), in the same blocks.
struct SplitGroup {
  int32_t firstMember;
  int32_t endMember;
  int32_t tokens;  // of all members
  int32_t firstSplit;
  int32_t endSplit;
};

// The splits of a query tile that groups attend to, one group after the other without a gap.
struct SharedRange {
  int32_t firstGroup = -1;  // -1: none
  int32_t lastGroup = -1;
  int32_t firstSplit = 0;
  int32_t endSplit = 0;
};

class SharedSplits {
 public:
  // Tiles of more than `mostTokens` tokens are left alone. Throws std::bad_alloc.
  void find(const PagodaAttention& op, const std::vector<QueryTile>& tiles, int32_t mostTokens);

  const std::vector<SplitGroup>& groups() const { return groups_; }
  const std::vector<int32_t>& members() const { return members_; }
  const SharedRange& rangeOf(size_t tile) const { return ranges_[tile]; }

 private:
  // A tile, and the splits that all its tokens see whole.
  struct Candidate {
    int32_t tile;
    int32_t firstSplit;
    int32_t endSplit;
    const int32_t* blocks;
  };

  void collect(const PagodaAttention& op, const std::vector<QueryTile>& tiles, int32_t mostTokens);
  void groupActive(const std::vector<QueryTile>& tiles, int32_t split, int32_t blockSize, bool moreToCome);
  void putGroup(const std::vector<QueryTile>& tiles, size_t begin, size_t end, int32_t split);

  std::vector<SplitGroup> groups_;
  std::vector<int32_t> members_;     // indexes of tiles, of each group side by side
  std::vector<SharedRange> ranges_;  // of each tile
  std::vector<Candidate> candidates_;
  std::vector<Candidate> active_;
};

}  // namespace pagoda

#endif
