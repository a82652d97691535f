// The order in which states are merged: whoever computes which splits, the same tree.
#include "../cpu/state-tree.h"

#include <algorithm>
#include <string>
#include <vector>

#include "check.h"

namespace pagoda::test {
namespace {

// What was merged with what, as an expression; "" is the empty state.
using Tree = std::string;

void merge(Tree* into, const Tree* from) {
  *into = into->empty() ? *from : from->empty() ? *into : "(" + *into + *from + ")";
}

// Splits outside [first, end), which a row does not see, are empty.
Tree leaf(int32_t split, int32_t first, int32_t end) {
  return split < first || split >= end ? "" : std::to_string(split) + " ";
}

// The node of `size` splits from `begin` on, by recursion.
Tree reference(int32_t begin, int32_t size, int32_t first, int32_t end) {
  if (size == 1) return leaf(begin, first, end);
  Tree left = reference(begin, size / 2, first, end);
  const Tree right = reference(begin + size / 2, size / 2, first, end);
  merge(&left, &right);
  return left;
}

// Each cut is where a part ends; what it has is handed over a state a node.
Tree inParts(const std::vector<int32_t>& cuts, int32_t first, int32_t end) {
  std::vector<Tree> states;
  std::vector<int32_t> begins;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    forNodes(cuts[i], cuts[i + 1], [&](int32_t begin, int32_t nodeEnd) {
      std::vector<Tree> levels(stackedStates(cuts.back()));
      StateStack<Tree> stack;
      for (int32_t split = begin; split < nodeEnd; ++split) {
        Tree& state = levels.at(stack.size());
        state = leaf(split, first, end);
        stack.push(&state, split, split + 1, merge);
      }
      states.push_back(*stack.mergeAll(merge));
      begins.push_back(begin);
    });
  }
  begins.push_back(cuts.back());
  StateStack<Tree> stack;
  for (size_t i = 0; i < states.size(); ++i) {
    stack.push(&states[i], begins[i], begins[i + 1], merge);
    CHECK(stack.size() <= stackedStates(cuts.back()), "%d states", stack.size());
  }
  return *stack.mergeAll(merge);
}

// All splits by one worker, as a tile that is not cut.
Tree atOnce(int32_t from, int32_t to, int32_t first, int32_t end) {
  std::vector<Tree> levels(stackedStates(to));
  StateStack<Tree> stack;
  for (int32_t split = from; split < to; ++split) {
    Tree& state = levels.at(stack.size());
    state = leaf(split, first, end);
    stack.push(&state, split, split + 1, merge);
  }
  return *stack.mergeAll(merge);
}

// Rows that see [first, end), alone and in tiles that begin before and end later.
void testOneTree() {
  section("one tree for all cuts");
  for (int32_t to = 1; to <= 21; ++to) {
    for (int32_t first = 0; first < to; ++first) {
      const Tree expected = reference(0, 32, first, to);
      CHECK(atOnce(first, to, first, to) == expected, "[%d, %d)", first, to);
      for (int32_t before = 0; before <= first; ++before) {
        for (int32_t after = to; after <= 22; ++after) CHECK(atOnce(before, after, first, to) == expected);
      }
      for (int32_t a = first; a <= to; ++a) {
        for (int32_t b = a; b <= to; ++b) {
          CHECK(inParts({first, a, b, to}, first, to) == expected, "[%d, %d) cut at %d and %d", first, to, a, b);
        }
      }
    }
  }
}

void testNodes() {
  section("nodes");
  const auto nodes = [](int32_t first, int32_t end) {
    std::vector<int32_t> begins;
    forNodes(first, end, [&](int32_t begin, int32_t) { begins.push_back(begin); });
    return begins;
  };
  CHECK(nodes(0, 8) == std::vector<int32_t>({0}));
  CHECK(nodes(3, 13) == std::vector<int32_t>({3, 4, 8, 12}));
  CHECK(nodes(5, 5).empty());
  CHECK(nodes(0, (1 << 30) + 5).size() == 3);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testNodes();
  testOneTree();
  return finish();
}
