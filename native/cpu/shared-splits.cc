#include "shared-splits.h"

#include <algorithm>
#include <cstring>

namespace pagoda {

void SharedSplits::collect(const PagodaAttention& op, const std::vector<QueryTile>& tiles, int32_t mostTokens) {
  candidates_.clear();
  for (size_t i = 0; i < tiles.size(); ++i) {
    const QueryTile& tile = tiles[i];
    const int32_t lastPosition = tile.position + tile.tokens - 1;
    const int32_t firstKey = op.slidingWindow > 0 ? std::max(0, lastPosition - op.slidingWindow + 1) : 0;
    const int32_t firstSplit = firstKey / kSplitKeys + (firstKey % kSplitKeys > 0 ? 1 : 0);
    const int32_t endSplit = (tile.position + 1) / kSplitKeys;
    if (tile.tokens > mostTokens || firstSplit >= endSplit) continue;
    const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(tile.request) * op.batch.maxBlocks;
    candidates_.push_back({static_cast<int32_t>(i), firstSplit, endSplit, blocks});
  }
  const auto entersBefore = [](const Candidate& a, const Candidate& b) { return a.firstSplit < b.firstSplit; };
  if (op.slidingWindow > 0) std::stable_sort(candidates_.begin(), candidates_.end(), entersBefore);
}

// Takes the tiles from split to split. Those that are alone with the blocks of a split are not looked at again: so a
// tile that shares nothing costs one comparison or two, unless tiles with other windows are still to come.
void SharedSplits::find(const PagodaAttention& op, const std::vector<QueryTile>& tiles, int32_t mostTokens) {
  groups_.clear();
  members_.clear();
  ranges_.assign(tiles.size(), {});
  collect(op, tiles, mostTokens);
  active_.clear();
  size_t entered = 0;
  for (int32_t split = 0; !active_.empty() || entered < candidates_.size(); ++split) {
    if (active_.empty()) split = candidates_[entered].firstSplit;
    while (entered < candidates_.size() && candidates_[entered].firstSplit <= split) {
      active_.push_back(candidates_[entered++]);
    }
    std::erase_if(active_, [&](const Candidate& candidate) { return candidate.endSplit <= split; });
    groupActive(tiles, split, op.cache.blockSize, entered < candidates_.size());
  }
}

// Groups the active tiles by their blocks of one split and drops those that are alone.
void SharedSplits::groupActive(const std::vector<QueryTile>& tiles, int32_t split, int32_t blockSize, bool moreToCome) {
  const int64_t firstKey = int64_t{split} * kSplitKeys;
  const int64_t firstBlock = firstKey / blockSize;
  const size_t bytes = ((firstKey + kSplitKeys - 1) / blockSize - firstBlock + 1) * sizeof(int32_t);
  const auto compare = [&](const Candidate& a, const Candidate& b) {
    return std::memcmp(a.blocks + firstBlock, b.blocks + firstBlock, bytes);
  };
  const auto isBefore = [&](const Candidate& a, const Candidate& b) {
    const int order = compare(a, b);
    return order != 0 ? order < 0 : a.tile < b.tile;
  };
  if (!std::is_sorted(active_.begin(), active_.end(), isBefore)) std::sort(active_.begin(), active_.end(), isBefore);
  size_t kept = 0;
  for (size_t begin = 0, end = 0; begin < active_.size(); begin = end) {
    for (end = begin + 1; end < active_.size() && compare(active_[begin], active_[end]) == 0;) ++end;
    const bool isShared = end - begin > 1;
    if (isShared) putGroup(tiles, begin, end, split);
    for (size_t i = begin; i < end; ++i) {
      if (isShared || (moreToCome && ranges_[active_[i].tile].firstGroup < 0)) active_[kept++] = active_[i];
    }
  }
  active_.resize(kept);
}

// Active tiles [begin, end) share `split`: a group goes on if they are its members, else they are a new one.
void SharedSplits::putGroup(const std::vector<QueryTile>& tiles, size_t begin, size_t end, int32_t split) {
  const int32_t last = ranges_[active_[begin].tile].lastGroup;
  bool goesOn = last >= 0 && groups_[last].endMember - groups_[last].firstMember == static_cast<int32_t>(end - begin);
  for (size_t i = begin; i < end; ++i) goesOn &= ranges_[active_[i].tile].lastGroup == last;
  if (!goesOn) {
    const int32_t firstMember = static_cast<int32_t>(members_.size());
    groups_.push_back({firstMember, firstMember + static_cast<int32_t>(end - begin), 0, split, split});
  }
  const int32_t index = goesOn ? last : static_cast<int32_t>(groups_.size()) - 1;
  SplitGroup& group = groups_[index];
  group.endSplit = split + 1;
  for (size_t i = begin; i < end; ++i) {
    SharedRange& range = ranges_[active_[i].tile];
    if (range.firstGroup < 0) range = {index, index, split, split};
    range.lastGroup = index;
    range.endSplit = split + 1;
    if (goesOn) continue;
    members_.push_back(active_[i].tile);
    group.tokens += tiles[active_[i].tile].tokens;
  }
}

}  // namespace pagoda
