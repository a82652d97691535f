// How the attention of a batch is cut into work items: what attention-scheduler.h decides and attention.cc runs.
//
// Splits are kSplitKeys keys at absolute positions; each has its own FlashState, and the states of a query tile are
// merged in the order of a binary tree over absolute splits (state-tree.h), whoever computes them. So the schedule,
// which depends on the batch and the number of workers, decides no bit of the result, and a part that has computed a
// whole subtree keeps one state of it.
#ifndef PAGODA_CPU_ATTENTION_SCHEDULE_H
#define PAGODA_CPU_ATTENTION_SCHEDULE_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

constexpr int32_t kSplitKeys = 512;

// Some query tokens of one request. What they attend to is in splits
//   [firstSplit, statesEnd), of which parts of the first pass keep states, and
//   [statesEnd, endSplit), left to the part that finishes the tile: it merges the states, goes on and stores outputs.
struct QueryTile {
  int32_t request;
  int32_t row;  // of the first token in query and out
  int32_t tokens;
  int32_t position;  // of the first token
  int32_t firstSplit;
  int32_t statesEnd;
  int32_t endSplit;
  int32_t numStates;
  int32_t firstBegin;  // in stateBegins
  int64_t firstState;  // in rows of states, which are [states][KV heads][tokens * heads of a group]
};

// A work item for each KV head: query tiles and the splits [firstSplit, endSplit) of their keys. Where it has several
// tiles, all their tokens attend to all keys of these splits, which are in the same blocks.
struct AttentionPart {
  int32_t firstMember;
  int32_t numMembers;
  int32_t tokens;  // of all members
  int32_t firstSplit;
  int32_t endSplit;
  bool finishes;  // whether it finishes its one tile
  int64_t cost;   // time for one KV head, in no unit
};

struct AttentionSchedule {
  const QueryTile* tiles;
  const int32_t* members;         // indexes of tiles, of each part side by side
  const int32_t* stateBegins;     // the first split of each state, of each tile in order
  const AttentionPart* parts;     // of the first pass, those that take longest first
  const AttentionPart* finishes;  // of the second pass, likewise: of the tiles that have states
  int32_t numParts;
  int32_t numFinishes;
  int32_t tokensPerTile;  // most tokens of a tile, and of a part
  int32_t endSplit;       // of all tiles, the largest
  int64_t numStateRows;   // of all tiles
};

}  // namespace pagoda

#endif
