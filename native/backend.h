/* The contract between the engine and a backend: op parameters and one table of function pointers.
 *
 * lib/ decides, native/ computes, and this file is the only wall between them. It is plain C, so that a
 * plug-in built by another compiler (CUDA, Ascend) can implement it. The layout is internal: both sides
 * compare `abiVersion` and `structSize`, and there is no compatibility between versions.
 *
 * Rules
 * - Every function that can fail returns a PagodaStatus and, unless it is PAGODA_OK, writes a sentence to
 *   `error`. Nothing aborts, exits or throws across this wall.
 * - `void*` fields are device addresses: only the backend dereferences them. Addresses inside one
 *   allocation may be offset. Counts, sizes and scalars are host values.
 * - Ops and copies are queued in order; their result is visible to the host after `synchronize`.
 * - One thread at a time drives a device.
 * - All tensors are two-dimensional, [rows, width], rows being tokens or outputs; heads are attributes.
 * - Batch invariance: a row of an output depends on nothing but its own inputs and its absolute position;
 *   the order of every reduction is fixed by the position alone.
 */
#ifndef PAGODA_BACKEND_H
#define PAGODA_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PAGODA_ABI_VERSION 8u
#define PAGODA_ERROR_LENGTH 256

/* Makes every value of its four bytes one that C++ may read, so that a backend can refuse what is no enumerator. */
#ifdef __cplusplus
#define PAGODA_INT32 : int32_t
#else
#define PAGODA_INT32
#endif

typedef enum PagodaStatus PAGODA_INT32 {
  PAGODA_OK = 0,
  PAGODA_INVALID = 1,       /* a parameter is out of range: a bug of the caller */
  PAGODA_OUT_OF_MEMORY = 2, /* device or host memory could not be allocated */
  PAGODA_UNAVAILABLE = 3,   /* no such device, no driver */
  PAGODA_UNSUPPORTED = 4,   /* dtype, shape or feature that this backend does not have */
  PAGODA_FAILED = 5,        /* the device reported an error; it may be unusable from now on */
  PAGODA_IO = 6             /* a file could not be read; used by the loader, not by backends */
} PagodaStatus;

typedef struct PagodaError {
  char message[PAGODA_ERROR_LENGTH]; /* NUL-terminated */
} PagodaError;

/* The quantised types are those of GGUF files (native/block-formats.h), for weights only: a row is a number of blocks
 * of 32 columns, of 256 for the K types. Matrices and tables may have them in memory, in whatever layout the backend
 * packs them; a linear may then round its activations to 8 bits, 32 columns of a row at a time. */
typedef enum PagodaDtype PAGODA_INT32 {
  PAGODA_F32 = 0,
  PAGODA_BF16 = 1,
  PAGODA_F16 = 2,
  PAGODA_Q8_0 = 3,
  PAGODA_Q4_0 = 4,
  PAGODA_Q4_1 = 5,
  PAGODA_Q5_0 = 6,
  PAGODA_Q5_1 = 7,
  PAGODA_Q4_K = 8,
  PAGODA_Q5_K = 9,
  PAGODA_Q6_K = 10,
  /* Of a KV cache only: codes with a scale for each token, KV head and for each of K and V, or of latent and rope key.
   */
  PAGODA_INT8 = 11,
  PAGODA_MXFP4 = 12
} PagodaDtype;

/* Activations: [rows, width], row r at data + r * rowStride elements. A column range of a tensor is again one. */
typedef struct PagodaTensor {
  void* data;
  int32_t rows;
  int32_t width;
  int64_t rowStride; /* elements, >= width */
  PagodaDtype dtype;
} PagodaTensor;

typedef enum PagodaWeightKind PAGODA_INT32 {
  PAGODA_MATRIX = 0, /* [rows = outputs, cols = inputs]: linear, and embed when tied to it */
  PAGODA_TABLE = 1,  /* [rows, cols], only ever read a row at a time: embed */
  PAGODA_VECTOR = 2  /* [1, cols], always f32: norm weights, biases, rope frequencies */
} PagodaWeightKind;

/* A weight in device memory, in a layout that only the backend knows (it follows from the other fields). */
typedef struct PagodaWeight {
  void* data; /* NULL: absent */
  PagodaWeightKind kind;
  int32_t rows;
  int32_t cols;
  PagodaDtype dtype;
} PagodaWeight;

/* One layer of the paged KV cache: numBlocks blocks of blockSize tokens, layout private to the backend. With latentDim
 * > 0 it is a latent cache (multi-head latent attention, DeepSeek-V2, arXiv:2405.04434): a token is one row of headDim
 * columns, [latent of latentDim | rope key], which all query heads share. K is the whole row, V its latent; the row is
 * stored once. Both parts have an even number of columns. */
typedef struct PagodaKvCache {
  void* data; /* numBlocks * kvBlockBytes bytes */
  int32_t numBlocks;
  int32_t blockSize; /* tokens */
  int32_t numKvHeads;
  int32_t headDim;
  PagodaDtype dtype;
  int32_t latentDim; /* 0: K and V apart, headDim columns a head each; > 0: numKvHeads is 1 */
} PagodaKvCache;

/* The ragged batch of one step: R requests, T scheduled tokens (T = queryStartLoc[R]). */
typedef struct PagodaBatch {
  int32_t numRequests;          /* R */
  int32_t numTokens;            /* T */
  int32_t maxBlocks;            /* row length of blockTable */
  int32_t maxQueryLen;          /* largest number of tokens of one request in this step */
  int32_t maxSeqLen;            /* largest of seqLens */
  const int32_t* queryStartLoc; /* device [R + 1] */
  const int32_t* seqLens;       /* device [R], context length after this step */
  const int32_t* blockTable;    /* device [R, maxBlocks] */
  /* The first two once more in the host's memory, valid during the call; NULL in steps that are recorded, whose host
   * values above are upper bounds. */
  const int32_t* hostQueryStartLoc;
  const int32_t* hostSeqLens;
} PagodaBatch;

/* ---- op parameters ---------------------------------------------------------------------------------- */

/* out[t] = table[tokenIds[t]] * scale */
typedef struct PagodaEmbed {
  PagodaTensor out;        /* [T, hidden] */
  const int32_t* tokenIds; /* device [T], each in [0, table.rows) */
  PagodaWeight table;      /* [vocab, hidden], PAGODA_TABLE or PAGODA_MATRIX */
  float scale;
} PagodaEmbed;

/* For each row and each group of groupWidth columns: out = x / sqrt(mean(x^2) + eps) * (weight + weightOffset).
 * groupWidth = width for a layer norm, headDim for query/key norms. out may be x itself. */
typedef struct PagodaRmsNorm {
  PagodaTensor out;    /* [rows, width] */
  PagodaTensor x;      /* [rows, width] */
  PagodaWeight weight; /* [groupWidth] */
  int32_t groupWidth;  /* divides width */
  float eps;
  float weightOffset; /* 0, or 1 where checkpoints store weight - 1 (gemma) */
} PagodaRmsNorm;

/* out = x * weight^T + bias */
typedef struct PagodaLinear {
  PagodaTensor out;    /* [rows, N] */
  PagodaTensor x;      /* [rows, K] */
  PagodaWeight weight; /* [N, K] PAGODA_MATRIX */
  PagodaWeight bias;   /* [N], or data NULL */
} PagodaLinear;

/* Angles of rotary embeddings, once a step: angle = (float)position * frequency[i], rounded to f32, then
 * out[t][i] = cos(angle) * scaling and out[t][rotaryDim/2 + i] = sin(angle) * scaling, i < rotaryDim/2. */
typedef struct PagodaRopeTable {
  PagodaTensor out;         /* [T, rotaryDim], always f32 */
  const int32_t* positions; /* device [T] */
  PagodaWeight frequency;   /* [rotaryDim / 2] */
  float scaling;
} PagodaRopeTable;

/* Rotates the first rotaryDim columns of each head by the halves rule (x1, x2) -> (x1 c - x2 s, x2 c + x1 s), where
 * x2 stands rotaryDim/2 behind x1; with interleaved != 0, x2 stands next to x1. Other columns are copied. out may be x.
 */
typedef struct PagodaRope {
  PagodaTensor out;   /* [T, heads * headDim] */
  PagodaTensor x;     /* [T, heads * headDim] */
  PagodaTensor table; /* [T, rotaryDim] of ropeTable */
  int32_t headDim;
  int32_t rotaryDim; /* even, <= headDim */
  int32_t interleaved;
} PagodaRope;

/* Writes K and V of each token into its slot = block * blockSize + offset. A negative slot is not written. Not for
 * latent caches: latentWrite. */
typedef struct PagodaCacheWrite {
  PagodaTensor key;   /* [T, numKvHeads * headDim] */
  PagodaTensor value; /* [T, numKvHeads * headDim] */
  PagodaKvCache cache;
  const int32_t* slotMapping; /* device [T] */
} PagodaCacheWrite;

/* cacheWrite of a latent cache. */
typedef struct PagodaLatentWrite {
  PagodaTensor latent;  /* [T, latentDim], after its norm */
  PagodaTensor ropeKey; /* [T, headDim - latentDim], after rope */
  PagodaKvCache cache;
  const int32_t* slotMapping; /* device [T] */
} PagodaLatentWrite;

/* How the elements of [rows, width] lie: row after row, or, as the matrix units of Ascend want their operands, in
 * columns of 32 bytes, [width / e][rows][e] with e = 8 elements of f32. PAGODA_NZ needs a width that e divides and a
 * rowStride of width: the memory is rows * width elements side by side. */
typedef enum PagodaLayout PAGODA_INT32 { PAGODA_ND = 0, PAGODA_NZ = 1 } PagodaLayout;
#define PAGODA_NZ_COLUMNS 8 /* e */

/* Reads tokens back from where a block table scatters them, as f32: the inverse of cacheWrite and latentWrite. Row
 * queryStartLoc[r] + j is position seqLens[r] - q + j of sequence r, q being its number of rows; so queryStartLoc holds
 * cumulative lengths, and a sequence may be read from any token to any other. A row is K of all heads, then V of all
 * heads; of a latent cache it is [latent | rope key], in which V is a range of columns of K. Values are those that
 * attention sees: bf16 widened, codes of int8 multiplied with their scales. */
typedef struct PagodaGatherKv {
  PagodaTensor out; /* [T, 2 * numKvHeads * headDim]; of a latent cache [T, headDim] */
  PagodaKvCache cache;
  PagodaBatch batch;
  PagodaLayout layout; /* of out */
} PagodaGatherKv;

/* Copies whole blocks, in order: for each pair, block pairs[2 c] to block pairs[2 c + 1]. */
typedef struct PagodaCopyBlocks {
  PagodaKvCache cache;
  const int32_t* pairs; /* device [numPairs, 2] */
  int32_t numPairs;
} PagodaCopyBlocks;

/* Causal paged attention; prefill, chunk and decode are one op. Token j of request r (j < query length q) has
 * position p = seqLens[r] - q + j and attends to positions max(0, p - slidingWindow + 1) .. p, read through the block
 * table. Query head h uses KV head h / (numHeads / numKvHeads). score = q . k * scale, then, if softcap > 0,
 * softcap * tanh(score / softcap); softmax; weighted sum of V. A sink is one more score in the head's softmax, without
 * a value (Xiao et al. 2023, arXiv:2309.17453; learned, as in gpt-oss). Tiled online softmax (Milakov and Gimelshein
 * 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). */
typedef struct PagodaAttention {
  PagodaTensor out;   /* [T, numHeads * headDim] */
  PagodaTensor query; /* [T, numHeads * headDim] */
  PagodaKvCache cache;
  PagodaBatch batch;
  int32_t numHeads; /* multiple of cache.numKvHeads */
  float scale;
  int32_t slidingWindow; /* tokens, 0: none */
  float softcap;         /* 0: none */
  PagodaWeight sinks;    /* [numHeads], or data NULL */
} PagodaAttention;

/* Causal multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) over a latent cache. Of a row [c | k] head h has
 * the key [W_UK[h] c | k] and the value W_UV[h] c; its query is [query | queryRope]. Positions and order as in
 * PagodaAttention; score = [query | queryRope] . key * scale. A backend moves W_UK and W_UV to the other side of the
 * products (the absorbed form) for all requests where expandFrom is 0, else it may do so for any, above all for those
 * with less than expandFrom tokens in the step; which form a token has must not depend on other requests. */
typedef struct PagodaMlaAttention {
  PagodaTensor out;       /* [T, numHeads * valueDim] */
  PagodaTensor query;     /* [T, numHeads * nopeDim], the part without rope */
  PagodaTensor queryRope; /* [T, numHeads * (headDim - latentDim)], after rope */
  PagodaKvCache cache;    /* a latent cache */
  PagodaBatch batch;
  PagodaWeight keyUp;     /* [numHeads * latentDim, nopeDim] PAGODA_MATRIX: W_UK of each head, transposed */
  PagodaWeight valueUp;   /* [numHeads * valueDim, latentDim] PAGODA_MATRIX: W_UV of each head */
  PagodaWeight keyExpand; /* [numHeads * nopeDim, latentDim] PAGODA_MATRIX: W_UK of each head; or data NULL */
  int32_t numHeads;
  float scale;
  int32_t expandFrom; /* 0 where there is no keyExpand */
} PagodaMlaAttention;

/* PAGODA_CLAMPED_SWIGLU (gpt-oss) is a function of both: with g = min(gate, 7) and u = up limited to [-7, 7] it is
 * g * sigmoid(1.702 * g) * (u + 1). */
typedef enum PagodaActivation PAGODA_INT32 {
  PAGODA_SILU = 0,
  PAGODA_GELU_TANH = 1,
  PAGODA_GELU = 2,
  PAGODA_CLAMPED_SWIGLU = 3
} PagodaActivation;

/* out = activation(gate) * up */
typedef struct PagodaGatedActivation {
  PagodaTensor out;  /* [rows, width] */
  PagodaTensor gate; /* [rows, width] */
  PagodaTensor up;   /* [rows, width] */
  PagodaActivation activation;
} PagodaGatedActivation;

/* out = a + b. out may be a or b. */
typedef struct PagodaAdd {
  PagodaTensor out; /* [rows, width] */
  PagodaTensor a;
  PagodaTensor b;
} PagodaAdd;

typedef enum PagodaScoring PAGODA_INT32 { PAGODA_SOFTMAX = 0, PAGODA_SIGMOID = 1 } PagodaScoring;
typedef enum PagodaGroupScore PAGODA_INT32 { PAGODA_GROUP_MAX = 0, PAGODA_GROUP_TOP2_SUM = 1 } PagodaGroupScore;

/* The topK experts of each row, best first, lowest index first among equals, NaN before numbers. Experts are compared
 * by key = score + bias, score being the softmax over the row's logits or the sigmoid of each. With numGroups > 1 only
 * experts of topGroups groups of neighbours are chosen: those of the largest groupScore, the largest key or the sum of
 * the two largest keys of the group (DeepSeek-AI 2024, arXiv:2405.04434 and arXiv:2412.19437). The weight of a chosen
 * expert is its score, divided by (the sum of the chosen scores + 1e-20) if `normalize`, times scale. */
typedef struct PagodaRoute {
  PagodaTensor out;    /* [rows, 2 * topK]: weights, then the numbers of their experts, which f32 holds exactly */
  PagodaTensor logits; /* [rows, numExperts] */
  PagodaWeight bias;   /* [numExperts], or data NULL */
  int32_t topK;        /* <= experts of topGroups groups */
  PagodaScoring scoring;
  int32_t normalize;
  float scale;
  int32_t numGroups; /* divides numExperts; 1: no groups */
  int32_t topGroups; /* <= numGroups */
  PagodaGroupScore groupScore;
} PagodaRoute;

/* The experts of a mixture (Shazeer et al. 2017, arXiv:1701.06538), those that `route` chose for each row:
 * out = sum over slots s, in order, of weight_s * (down_e * activation(gate_e * x, up_e * x)), e = expert_s, biases
 * added to each product where there are any. Matrices hold expert after expert. A linear may round its activations as
 * PagodaDtype says, and so do gate, up and down. */
typedef struct PagodaExperts {
  PagodaTensor out;      /* [rows, N] */
  PagodaTensor x;        /* [rows, K] */
  PagodaTensor route;    /* [rows, 2 * topK], as route writes it */
  PagodaWeight gate;     /* [numExperts * I, K] PAGODA_MATRIX */
  PagodaWeight up;       /* [numExperts * I, K] PAGODA_MATRIX */
  PagodaWeight down;     /* [numExperts * N, I] PAGODA_MATRIX */
  PagodaWeight gateBias; /* [numExperts * I], or data NULL, as are all three then */
  PagodaWeight upBias;   /* [numExperts * I] */
  PagodaWeight downBias; /* [numExperts * N] */
  int32_t numExperts;
  PagodaActivation activation;
} PagodaExperts;

/* out[s] = x[rows[s]] */
typedef struct PagodaTakeRows {
  PagodaTensor out;    /* [S, width] */
  PagodaTensor x;      /* [T, width] */
  const int32_t* rows; /* device [S], each in [0, T) */
} PagodaTakeRows;

/* One list of integers a row, all lists in one array: row s has values[offsets[s]] to values[offsets[s + 1] - 1]. */
typedef struct PagodaLists {
  const int32_t* values;  /* device */
  const int32_t* offsets; /* device [S + 1], from 0, never decreasing */
} PagodaLists;

/* What changes the logits before a token is drawn, in the order of its fields. All pointers are NULL where no row of
 * the step needs any of it. Token ids are in [0, vocab). The values are those of float arithmetic, and a finite logit
 * stays finite: what would overflow becomes the largest float. */
typedef struct PagodaSampleControls {
  PagodaLists allowed; /* ids in increasing order; all others become -Inf. An empty list allows everything */
  PagodaLists banned;  /* ids that become -Inf */
  PagodaLists biased;  /* ids in increasing order, to which a bias is added */
  const float* biases; /* device, one beside each value of biased */
  /* The tokens so far, prompt first, that penalties and DRY look at. Empty where a row uses neither. */
  PagodaLists history;
  const int32_t* numPromptTokens; /* device [S], leading tokens of the history that are no output */
  /* Each token of the history, once: x > 0 ? x / penalty : x * penalty. (0, ...), 1: none. */
  const float* repetitionPenalty; /* device [S] */
  /* Each token that the output has `count` > 0 times: x - frequency * count, then x - presence. 0: none. */
  const float* frequencyPenalty; /* device [S] */
  const float* presencePenalty;  /* device [S] */
  /* DRY (p-e-w, text-generation-webui pull request 5677), over the last dryRange tokens of the history. Let n be the
   * length of the longest end of them that holds no breaker and was followed by token i before. If n >= allowedLength
   * and i is no breaker: x - multiplier * base^(n - allowedLength). */
  const float* dryMultiplier;      /* device [S], >= 0, 0: none */
  const float* dryBase;            /* device [S], >= 1 */
  const int32_t* dryAllowedLength; /* device [S], >= 1 */
  const int32_t* dryRange;         /* device [S], >= 0 */
  PagodaLists dryBreakers;         /* ids in increasing order */
  /* Filters of drawn rows, see PagodaSample. */
  const float* typicalP;       /* device [S], (0, 1], 1: none */
  const float* xtcProbability; /* device [S], [0, 1], 0: none */
  const float* xtcThreshold;   /* device [S], [0, 1] */
  int32_t maxHistory;          /* tokens of the longest history */
} PagodaSampleControls;

/* Log-probabilities of the logits as they came, for rows whose `wanted` is not negative; results of other rows and of
 * rows that are not finite are undefined. All pointers are NULL where no row wants any. */
typedef struct PagodaLogprobs {
  const int32_t* wanted; /* device [S], <= maxWanted: most probable tokens beside the row's own */
  int32_t maxWanted;     /* K */
  float* logprob;        /* device [S], result: of the row's token */
  int32_t* rank;         /* device [S], result: 1 + how many tokens are more probable than the row's */
  int32_t* topIds;       /* device [S, K], result: most probable first, lowest index first among equals; then -1 */
  float* topLogprobs;    /* device [S, K], result: beside topIds; then -Inf */
} PagodaLogprobs;

/* Draws one token a row: `controls` change the logits, then at temperature 0 the token is their argmax, the lowest
 * index among equals. Otherwise logits are divided by the temperature, and these filters drop tokens, in this order:
 *   minP      p < minP * max p
 *   topK      all below the k-th value (0: none)
 *   typicalP  all but the smallest set whose sum reaches typicalP, least |ln p + entropy| first (Meister et al. 2022,
 *             arXiv:2202.00666), lowest index first among equals
 *   topP      all but the smallest set of most probable tokens whose sum reaches topP, lowest index first among equals
 *   xtc       with xtcProbability: of the tokens with p >= xtcThreshold all but the least probable, the highest index
 *             among equals (p-e-w, text-generation-webui pull request 6335)
 * p are shares of what is left. The token is argmax(p_i / e_i), e_i = -log(u_i) (the exponential race), u_i from
 * Philox4x32-10 (Salmon et al. 2011) with key = seed and counter = (i / 4, position, 0, 0), lane i % 4, u = ((x >> 8) +
 * 0.5) / 2^24. XTC happens if u < xtcProbability, u from lane 0 of the counter (0, position, 1, 0).
 * A row with a NaN, a +Inf, or nothing but -Inf, before or after the controls, is reported as not finite. */
typedef struct PagodaSample {
  PagodaTensor logits;      /* [S, vocab], f32; not changed */
  const float* temperature; /* device [S], >= 0 */
  const int32_t* topK;      /* device [S], 0: all */
  const float* topP;        /* device [S], (0, 1] */
  const float* minP;        /* device [S], [0, 1] */
  const uint32_t* seed;     /* device [S, 2], low word first */
  const int32_t* position;  /* device [S], absolute position of the token that is drawn */
  const int32_t* targets;   /* device [S]; not negative: the row's token, which is then not drawn. NULL: draw all */
  PagodaSampleControls controls;
  int32_t* tokens; /* device [S], result */
  int32_t* finite; /* device [S], result: 1, or 0 where the row is not finite (its token is then 0) */
  PagodaLogprobs logprobs;
} PagodaSample;

/* ---- the table -------------------------------------------------------------------------------------- */

typedef struct PagodaDevice PagodaDevice; /* opaque */
typedef struct PagodaGraph PagodaGraph;   /* opaque */

typedef struct PagodaDeviceInfo {
  char name[96];
  char isa[32];             /* instruction set or compute capability in use */
  uint64_t totalMemory;     /* bytes */
  uint64_t availableMemory; /* bytes, at the time of the call */
  int32_t threads;          /* workers of a CPU device, else 0 */
} PagodaDeviceInfo;

typedef struct PagodaDeviceOptions {
  int32_t device;  /* index, < deviceCount */
  int32_t threads; /* CPU workers, 0: choose */
  const char* isa; /* NULL: best available; else its name, for tests */
} PagodaDeviceOptions;

typedef struct PagodaBackend {
  uint32_t abiVersion; /* PAGODA_ABI_VERSION */
  uint32_t structSize; /* sizeof(PagodaBackend) */
  const char* name;    /* "cpu", "cuda", "ascend" */

  /* Number of usable devices; PAGODA_UNAVAILABLE with the reason where there is none. */
  PagodaStatus (*deviceCount)(int32_t* count, PagodaError* error);
  PagodaStatus (*openDevice)(const PagodaDeviceOptions* options, PagodaDevice** device, PagodaError* error);
  void (*closeDevice)(PagodaDevice* device);
  PagodaStatus (*deviceInfo)(PagodaDevice* device, PagodaDeviceInfo* info, PagodaError* error);

  /* Memory. Addresses are aligned to 256 bytes at least; contents are undefined. `release` takes NULL. */
  PagodaStatus (*allocate)(PagodaDevice* device, uint64_t bytes, void** address, PagodaError* error);
  void (*release)(PagodaDevice* device, void* address);
  /* The source may be reused once copyToDevice returns; the destination of copyToHost is filled after synchronize. */
  PagodaStatus (*copyToDevice)(PagodaDevice* device, void* to, const void* from, uint64_t bytes, PagodaError* error);
  PagodaStatus (*copyToHost)(PagodaDevice* device, void* to, const void* from, uint64_t bytes, PagodaError* error);
  PagodaStatus (*fill)(PagodaDevice* device, void* to, uint8_t value, uint64_t bytes, PagodaError* error);
  PagodaStatus (*synchronize)(PagodaDevice* device, PagodaError* error);

  /* Weights: bytes of the packed form (data is ignored), then rows [rowStart, rowStart + rows) at a time, any
   * order, each row once. `source` is host memory, row-major [rows, weight.cols] of sourceDtype. Where sourceDtype is
   * another type than the weight's, the values are rounded to the weight's, which is PAGODA_UNSUPPORTED for some. */
  PagodaStatus (*weightBytes)(PagodaDevice* device, const PagodaWeight* weight, uint64_t* bytes, PagodaError* error);
  PagodaStatus (*prepareWeight)(PagodaDevice* device, const PagodaWeight* weight, int32_t rowStart, int32_t rows,
                                const void* source, PagodaDtype sourceDtype, PagodaError* error);
  /* Bytes of one block of one layer (data and numBlocks are ignored). */
  PagodaStatus (*kvBlockBytes)(PagodaDevice* device, const PagodaKvCache* cache, uint64_t* bytes, PagodaError* error);

  /* Ops; NULL where the backend lacks one. */
  PagodaStatus (*embed)(PagodaDevice* device, const PagodaEmbed* op, PagodaError* error);
  PagodaStatus (*rmsNorm)(PagodaDevice* device, const PagodaRmsNorm* op, PagodaError* error);
  PagodaStatus (*linear)(PagodaDevice* device, const PagodaLinear* op, PagodaError* error);
  PagodaStatus (*ropeTable)(PagodaDevice* device, const PagodaRopeTable* op, PagodaError* error);
  PagodaStatus (*rope)(PagodaDevice* device, const PagodaRope* op, PagodaError* error);
  PagodaStatus (*cacheWrite)(PagodaDevice* device, const PagodaCacheWrite* op, PagodaError* error);
  PagodaStatus (*copyBlocks)(PagodaDevice* device, const PagodaCopyBlocks* op, PagodaError* error);
  PagodaStatus (*attention)(PagodaDevice* device, const PagodaAttention* op, PagodaError* error);
  PagodaStatus (*latentWrite)(PagodaDevice* device, const PagodaLatentWrite* op, PagodaError* error);
  PagodaStatus (*mlaAttention)(PagodaDevice* device, const PagodaMlaAttention* op, PagodaError* error);
  PagodaStatus (*gatherKv)(PagodaDevice* device, const PagodaGatherKv* op, PagodaError* error);
  PagodaStatus (*gatedActivation)(PagodaDevice* device, const PagodaGatedActivation* op, PagodaError* error);
  PagodaStatus (*add)(PagodaDevice* device, const PagodaAdd* op, PagodaError* error);
  PagodaStatus (*route)(PagodaDevice* device, const PagodaRoute* op, PagodaError* error);
  PagodaStatus (*experts)(PagodaDevice* device, const PagodaExperts* op, PagodaError* error);
  PagodaStatus (*takeRows)(PagodaDevice* device, const PagodaTakeRows* op, PagodaError* error);
  PagodaStatus (*sample)(PagodaDevice* device, const PagodaSample* op, PagodaError* error);

  /* Graphs: ops that are recorded once and run again by one call. All NULL where the backend has none. Ops between
   * beginGraph and endGraph are recorded instead of run, with their addresses and host values, but for what is in
   * device memory, which is read when the graph runs. They must have run before, with the same shapes, so that what
   * memory they need is there: PAGODA_OUT_OF_MEMORY otherwise. Nothing else may be called in between; endGraph must
   * follow in any case. runGraph sets `isOutdated` and runs nothing where that memory is another one by now.
   * releaseGraph takes NULL. */
  PagodaStatus (*beginGraph)(PagodaDevice* device, PagodaError* error);
  PagodaStatus (*endGraph)(PagodaDevice* device, PagodaGraph** graph, PagodaError* error);
  PagodaStatus (*runGraph)(PagodaDevice* device, PagodaGraph* graph, int32_t* isOutdated, PagodaError* error);
  void (*releaseGraph)(PagodaDevice* device, PagodaGraph* graph);
} PagodaBackend;

/* The one exported symbol of a plug-in. */
#define PAGODA_BACKEND_ENTRY "pagodaBackend"
typedef const PagodaBackend* (*PagodaBackendEntry)(void);

#ifdef __cplusplus
}
#endif
#endif
