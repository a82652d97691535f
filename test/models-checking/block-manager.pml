/*
 * The block manager's protocol for Spin: reference counts x copy-on-write x abort x the step in flight, for SEQUENCES sequences
 * over BLOCKS blocks of two tokens. It follows lib/cache/block-manager.ts and lib/scheduler/scheduler.ts: a step is made
 * (sequences get slots, shared partial blocks are to be copied), runs (copies, then writes) and is committed. A sequence that
 * is aborted while the step that writes its blocks runs gives them back at the commit, others at once. Forks share all
 * blocks, at any time but while the parent is in the step.
 *
 * scripts/check-spin.sh explores all states, then shows that each seeded bug (-DBUG_...) is found.
 */
#ifndef SEQUENCES
#define SEQUENCES 4
#endif
#ifndef BLOCKS
#define BLOCKS 4
#endif
#define NONE BLOCKS
#define MAX_TOKENS 4

byte count[BLOCKS];    /* owners */
byte filled[BLOCKS];   /* tokens whose K and V are there */
bit source[BLOCKS];    /* read by a copy of the step */
bit held[BLOCKS];      /* without owners, kept for a copy */

typedef Sequence {
  bit isAlive;
  bit isScheduled;     /* in the step that is made or runs */
  bit isAborted;       /* gives its blocks back at the commit */
  byte tokens;         /* with a slot */
  byte block[2];
  byte target;         /* written by the step, whatever becomes of the sequence */
  byte copyFrom;       /* copied to the target before */
};
Sequence sequence[SEQUENCES];

mtype = { making, copying, writing, committing };
mtype phase = making;

#define tail(s) ((sequence[s].tokens - 1) / 2)
#define next(s) ((s + 1) % SEQUENCES)
#define canGrow(s) (phase == making && !sequence[s].isScheduled && sequence[s].tokens < MAX_TOKENS)
#define ownsTail(s) (sequence[s].tokens % 2 == 1 && count[sequence[s].block[tail(s)]] == 1)
#define canFork(s) (sequence[s].tokens > 0 && !sequence[s].isScheduled)
#define hasFree (count[0] == 0 || count[1] == 0 || count[BLOCKS - 2] == 0 || count[BLOCKS - 1] == 0)
#define scheduled(s) sequence[s].isScheduled
#define hasStep (scheduled(0) || scheduled(1) || scheduled(SEQUENCES - 2) || scheduled(SEQUENCES - 1))

/* Any free block: its place in the free list does not matter here. */
inline allocate(result) {
  result = 0;
  do
  :: count[result] == 0 -> break
  :: else -> result++; assert(result < BLOCKS)
  od;
  assert(!held[result] && !source[result]);
  count[result] = 1;
  filled[result] = 0
}

inline release(b) {
  assert(count[b] > 0);
  if
#ifndef BUG_NO_HOLD
  :: count[b] == 1 && source[b] -> held[b] = 1
#endif
  :: else -> count[b]--;
    if
    :: count[b] == 0 -> filled[b] = 0
    :: else
    fi
  fi
}

inline freeAll(s) {
  if
  :: sequence[s].tokens > 2 -> last = sequence[s].block[1]; release(last)
  :: else
  fi;
  if
  :: sequence[s].tokens > 0 -> last = sequence[s].block[0]; release(last)
  :: else
  fi;
  sequence[s].block[0] = NONE;
  sequence[s].block[1] = NONE;
  sequence[s].tokens = 0;
  sequence[s].isAlive = 0;
  sequence[s].isScheduled = 0;
  sequence[s].isAborted = 0;
  last = 0
}

/* Each block has as many owners as tables name it, and each sequence the K and V of all tokens that are computed. */
inline check() {
  i = 0;
  do
  :: i < BLOCKS ->
    owners = held[i];
    j = 0;
    do
    :: j < SEQUENCES ->
      owners = owners + (sequence[j].tokens > 0 && sequence[j].block[0] == i);
      owners = owners + (sequence[j].tokens > 2 && sequence[j].block[1] == i);
      j++
    :: else -> break
    od;
    assert(owners == count[i]);
    i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < SEQUENCES ->
    computed = sequence[i].tokens - sequence[i].isScheduled;
    if
    :: phase == making && !sequence[i].isScheduled && computed > 0 ->
      assert(filled[sequence[i].block[0]] >= (computed > 2 -> 2 : computed));
      assert(computed <= 2 || filled[sequence[i].block[1]] >= computed - 2)
    :: else
    fi;
    i++
  :: else -> break
  od;
  i = 0; j = 0; owners = 0; computed = 0
}

/* One more token: a new block, a copy of a shared partial one, or a partial one of its own. */
inline schedule(s) {
  if
  :: sequence[s].tokens % 2 == 0 ->
    allocate(fresh);
    sequence[s].block[sequence[s].tokens / 2] = fresh
  :: else ->
    last = sequence[s].block[tail(s)];
    if
#ifndef BUG_NO_COPY
    :: count[last] > 1 ->
      allocate(fresh);
      sequence[s].copyFrom = last;
      source[last] = 1;
      sequence[s].block[tail(s)] = fresh;
#ifndef BUG_LEAK
      release(last)
#endif
#endif
    :: else
    fi
  fi;
  sequence[s].tokens++;
  sequence[s].target = sequence[s].block[tail(s)];
  sequence[s].isAlive = 1;
  sequence[s].isScheduled = 1;
  fresh = 0; last = 0
}

inline fork(parent, child) {
  sequence[child].isAlive = 1;
  sequence[child].tokens = sequence[parent].tokens;
  sequence[child].block[0] = sequence[parent].block[0];
  sequence[child].block[1] = sequence[parent].block[1];
  count[sequence[child].block[0]]++;
  if
  :: sequence[child].tokens > 2 -> count[sequence[child].block[1]]++
  :: else
  fi
}

inline abort(s) {
  if
#ifndef BUG_FREE_IN_FLIGHT
  :: sequence[s].isScheduled -> sequence[s].isAborted = 1
#endif
  :: else -> freeAll(s)
  fi
}

hidden byte i, j, owners, computed, fresh, last;

proctype client(byte s) {
  byte parent;
end:
  do
  :: d_step { canGrow(s) && hasFree -> schedule(s); check() }
  :: d_step { canGrow(s) && !hasFree && ownsTail(s) -> schedule(s); check() }
  :: d_step { !sequence[s].isAlive && canFork(next(s)) -> parent = next(s); fork(parent, s); parent = 0; check() }
  :: d_step { sequence[s].isAlive && !sequence[s].isAborted -> abort(s); check() } /* also a preemption */
  od
}

proctype engine() {
end:
  do
  :: d_step { phase == making && hasStep -> phase = copying; check() }
  :: d_step { phase == copying ->
      i = 0;
      do
      :: i < SEQUENCES ->
        if
        :: sequence[i].copyFrom != NONE ->
          assert(count[sequence[i].copyFrom] > 0 && filled[sequence[i].copyFrom] > 0);
          assert(count[sequence[i].target] == 1);
          filled[sequence[i].target] = filled[sequence[i].copyFrom];
          sequence[i].copyFrom = NONE
        :: else
        fi;
        i++
      :: else -> break
      od;
      phase = writing; check() }
  :: d_step { phase == writing ->
      i = 0;
      do
      :: i < SEQUENCES ->
        if
        :: sequence[i].target != NONE ->
          last = sequence[i].target;
          sequence[i].target = NONE;
          assert(count[last] == 1 && !held[last]);                        /* written by one owner only */
          assert(filled[last] >= (sequence[i].tokens - 1) % 2);           /* behind all tokens before it */
          filled[last] = (sequence[i].tokens - 1) % 2 + 1
        :: else
        fi;
        i++
      :: else -> break
      od;
      last = 0;
      phase = committing; check() }
  :: d_step { phase == committing ->
      i = 0;
      do
      :: i < BLOCKS ->
        source[i] = 0;
        if
        :: held[i] -> held[i] = 0; release(i)
        :: else
        fi;
        i++
      :: else -> break
      od;
      i = 0;
      do
      :: i < SEQUENCES ->
        sequence[i].isScheduled = 0;
        if
        :: sequence[i].isAborted -> freeAll(i)
        :: else
        fi;
        i++
      :: else -> break
      od;
      phase = making; check() }
  od
}

init {
  atomic {
    i = 0;
    do
    :: i < SEQUENCES ->
      sequence[i].block[0] = NONE;
      sequence[i].block[1] = NONE;
      sequence[i].target = NONE;
      sequence[i].copyFrom = NONE;
      run client(i);
      i++
    :: else -> break
    od;
    i = 0;
    run engine()
  }
}
