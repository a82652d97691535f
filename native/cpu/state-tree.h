// The order in which the states of splits are merged: a binary tree whose leaves are splits at absolute positions. A
// node is 2^n splits from a multiple of 2^n on; it merges its left half with its right one. Splits that a row does not
// see are empty states, which change no bit, so a row's result does not depend on what else is computed beside it.
//
// Whoever has the splits of a whole node may hand over one state for them. An even cut of any number of splits has few
// such nodes in each piece, where a plain order from left to right would need a state for each split behind the first
// piece.
#ifndef PAGODA_CPU_STATE_TREE_H
#define PAGODA_CPU_STATE_TREE_H

#include <stdint.h>

namespace pagoda {

// Enough states for any number of splits: one for each level of the tree, and the one that is being made.
constexpr int32_t kMostLevels = 32;

// States that a stack may hold at once while splits [0, endSplit) or some of them are pushed in order.
static inline int32_t stackedStates(int32_t endSplit) {
  int32_t levels = 1;
  for (int32_t rest = endSplit - 1; rest > 0; rest >>= 1) ++levels;
  return levels;
}

// The end of the largest node that begins at `begin` and ends at `end` or before.
static inline int32_t nodeEnd(int32_t begin, int32_t end) {
  int64_t size = begin == 0 ? int64_t{1} << 30 : begin & -begin;
  while (begin + size > end) size >>= 1;
  return static_cast<int32_t>(begin + size);
}

// Calls body(begin, end) with the nodes that splits [first, end) are made of, the fewest there are, in order.
template <class Body>
void forNodes(int32_t first, int32_t end, Body body) {
  for (int32_t begin = first, next = first; begin < end; begin = next) {
    next = nodeEnd(begin, end);
    body(begin, next);
  }
}

// Whether the nodes on both sides of `begin` are the halves of one, or the last and first parts of its halves, and all
// of it is before `end`.
static inline bool mergesAt(int32_t begin, int32_t end) { return end - begin >= (begin & -begin); }

// States of neighbouring splits, pushed in order.
template <class State>
class StateStack {
 public:
  int32_t size() const { return size_; }

  // Of splits [begin, end), where the pushed ones ended. merge(into, from) is called for all nodes that are now whole.
  template <class Merge>
  void push(State* state, int32_t begin, int32_t end, Merge merge) {
    states_[size_] = state;
    begins_[size_++] = begin;
    while (size_ > 1 && mergesAt(begins_[size_ - 1], end)) mergeLast(merge);
  }

  // The state of all that has been pushed.
  template <class Merge>
  State* mergeAll(Merge merge) {
    while (size_ > 1) mergeLast(merge);
    return states_[0];
  }

 private:
  template <class Merge>
  void mergeLast(Merge merge) {
    --size_;
    merge(states_[size_ - 1], states_[size_]);
  }

  State* states_[kMostLevels + 1];
  int32_t begins_[kMostLevels + 1];
  int32_t size_ = 0;
};

}  // namespace pagoda

#endif
