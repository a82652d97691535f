// out = x * weight^T + bias for quantised weights
//
// Activations are rounded to 8 bits (quantized-rows.h) and multiplied with the codes of the weights as integers, which
// is exact; the sum of each group of columns (32, Q6_K: 16) becomes a float, is multiplied with the scale of the
// weights and added to the sums of the groups before it. The scale of the activations comes in with each group where it
// belongs to one (8 bits), else once for a slice of 256 columns. So each result is one chain over groups and slices in
// order, with the same bits whatever the rows beside it. Offsets of codes are taken off where the integer sums begin;
// minima are multiplied with the sums of the activations. Codes are unpacked in registers, once for as many rows as a
// register block has.
#include "linear-quantized.h"

#include "linear-blocks.h"
#include "quantized-rows.h"
#include "tile.h"

namespace pagoda::PAGODA_ISA {
namespace {

// A register block has an integer and a float sum for each of its elements.
constexpr int kDotVectors = 2;
constexpr int kDotRows = kAccumulators / (2 * kDotVectors) < 6 ? kAccumulators / (2 * kDotVectors) : 6;
constexpr int32_t kMaxShares = 4;  // row blocks that fetch the next slice
constexpr int32_t kSliceGroups = kSliceColumns / kGroupColumns;

// Bits kFrom and up of each byte, as bits 4 and up, those of kMask.
template <int kFrom, uint32_t kMask>
PAGODA_INLINE u32v highBits(u32v bytes) {
  const u32v moved = kFrom < 4 ? bytes << (kFrom < 4 ? 4 - kFrom : 0) : bytes >> (kFrom < 4 ? 0 : kFrom - 4);
  return moved & (kMask * 0x01010101u);
}

// The codes of step kStep (packed-format.h), of FP4 what they stand for; `group` is that of the first output wanted.
template <PackedFormat kFormat, int kStep>
PAGODA_INLINE u32v loadCodes(const uint8_t* group) {
  constexpr int kBits = kFormat.bits;
  constexpr int64_t kStepBytes = 4 * kPanelWidth;
  if constexpr (kBits == 8) return loadWords(group + kStep * kStepBytes);
  const u32v both = loadWords(group + kStep / 2 * kStepBytes);
  const u32v low = (kStep % 2 == 0 ? both : both >> 4) & 0x0f0f0f0fu;
  if constexpr (kFormat.fp4) return fp4Codes(low);
  const uint8_t* high = group + 4 * kStepBytes;
  if constexpr (kBits == 5) return low | highBits<kStep, 0x10>(loadWords(high));
  if constexpr (kBits == 6) return low | highBits<2 * (kStep % 4), 0x30>(loadWords(high + kStep / 4 * kStepBytes));
  return low;
}

template <PackedFormat kFormat, int kStep, int kRows, int kVectors>
PAGODA_INLINE void addStep(i32v (&sums)[kRows][kVectors], const QuantizedGroup* x, const uint8_t* codesOfGroup) {
  u32v codes[kVectors];
  for (int v = 0; v < kVectors; ++v) codes[v] = loadCodes<kFormat, kStep>(codesOfGroup + 4 * v * kLanes);
  for (int r = 0; r < kRows; ++r) {
    const u32v a = broadcastWord(x[r].codes + 4 * kStep);
    for (int v = 0; v < kVectors; ++v) sums[r][v] = dot<kFormat.bits>(sums[r][v], codes[v], a);
  }
}

// Integer sums of part kPart of a group.
template <PackedFormat kFormat, int kPart, int kRows, int kVectors>
PAGODA_INLINE void sumColumns(i32v (&sums)[kRows][kVectors], const QuantizedGroup* x, const uint8_t* codes) {
  constexpr int kFirst = kPart * 4;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) sums[r][v] = broadcastInt(kFormat.offset == 0 ? 0 : x[r].starts[kPart]);
  }
  addStep<kFormat, kFirst>(sums, x, codes);
  addStep<kFormat, kFirst + 1>(sums, x, codes);
  addStep<kFormat, kFirst + 2>(sums, x, codes);
  addStep<kFormat, kFirst + 3>(sums, x, codes);
  if constexpr (kFormat.scales == 1) {
    addStep<kFormat, kFirst + 4>(sums, x, codes);
    addStep<kFormat, kFirst + 5>(sums, x, codes);
    addStep<kFormat, kFirst + 6>(sums, x, codes);
    addStep<kFormat, kFirst + 7>(sums, x, codes);
  }
}

// Scales of part kPart for kLanes outputs from `output` on.
template <PackedFormat kFormat, int kPart>
PAGODA_INLINE f32v loadScales(const uint8_t* block, const uint8_t* group, int32_t output) {
  const uint8_t* scales = group + (kFormat.scaleAt() + kPart) * kPanelWidth;
  if constexpr (kFormat.fp4) return loadHalvedPowers(scales + output);
  if constexpr (!kFormat.header) return loadHalves(scales + 2 * output);
  const f32v factor = kFormat.scales == 2 ? loadSigned(scales + output) : loadUnsigned(scales + output);
  return mul(loadHalves(block + 2 * output), factor);
}

template <PackedFormat kFormat>
PAGODA_INLINE f32v loadMins(const uint8_t* block, const uint8_t* group, int32_t output) {
  const uint8_t* mins = group + kFormat.minAt() * kPanelWidth;
  if constexpr (!kFormat.header) return loadHalves(mins + 2 * output);
  return mul(loadHalves(block + 2 * kPanelWidth + 2 * output), loadUnsigned(mins + output));
}

// Whether each group of the activations has a scale of its own, else each slice.
template <PackedFormat kFormat>
constexpr bool kScaledGroups = kFormat.activationColumns() == kGroupColumns;

// Where the group of the weights begins, and which outputs of it.
struct PackedGroup {
  const uint8_t* block;
  const uint8_t* group;
  int32_t output;
};

template <PackedFormat kFormat, int kPart, int kRows, int kVectors>
PAGODA_INLINE void addPart(f32v (&c)[kRows][kVectors], const QuantizedGroup* x, const PackedGroup& w) {
  i32v sums[kRows][kVectors];
  sumColumns<kFormat, kPart>(sums, x, w.group + 4 * w.output);
  f32v scales[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    scales[v] = loadScales<kFormat, kPart>(w.block, w.group, w.output + v * kLanes);
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const f32v scale = kScaledGroups<kFormat> ? mul(scales[v], broadcast(x[r].scale)) : scales[v];
      c[r][v] = fma(toFloat(sums[r][v]), scale, c[r][v]);
    }
  }
}

template <PackedFormat kFormat, int kRows, int kVectors>
PAGODA_INLINE void addMins(f32v (&c)[kRows][kVectors], const QuantizedGroup* x, const PackedGroup& w) {
  f32v mins[kVectors];
  for (int v = 0; v < kVectors; ++v) mins[v] = loadMins<kFormat>(w.block, w.group, w.output + v * kLanes);
  for (int r = 0; r < kRows; ++r) {
    const f32v sum = broadcast(x[r].sum);
    for (int v = 0; v < kVectors; ++v) c[r][v] = fma(mins[v], sum, c[r][v]);
  }
}

// A slice of the depth: groups [begin, end), whole blocks, the first of them at `block`.
struct Slice {
  int32_t begin;
  int32_t end;
  const uint8_t* block;
};

// Sums of the slices before this one: with scaled groups they are gone on with, else added at the end.
template <int kRows, int kVectors>
PAGODA_INLINE void loadSums(f32v (&c)[kRows][kVectors], const float* from, int64_t stride) {
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) c[r][v] = load(from + r * stride + v * kLanes);
  }
}

alignas(64) constexpr float kZeros[kPanelWidth] = {};

// to[kRows, kVectors * kLanes] = what is before + rows from `row` on times outputs from `output` on
template <PackedFormat kFormat, int kRows, int kVectors>
void multiplyTile(const QuantizedRows& rows, int32_t row, const Slice& slice, int32_t output, const Target& to,
                  Ahead ahead) {
  constexpr int32_t kHeaderBytes = kFormat.headerBytes() * kPanelWidth;
  constexpr int32_t kGroupBytes = kFormat.groupBytes() * kPanelWidth;
  const float* before = to.before == nullptr ? kZeros : to.before;
  const int64_t stride = to.before == nullptr ? 0 : to.beforeStride;
  f32v c[kRows][kVectors];
  if constexpr (kScaledGroups<kFormat>) {
    loadSums(c, before, stride);
  } else {
    loadSums(c, kZeros, 0);
  }
  const uint8_t* block = slice.block;
  const QuantizedGroup* x = rows.at(slice.begin, row);
  const QuantizedGroup* scales = x;
  for (int32_t first = slice.begin; first < slice.end; first += kFormat.groups()) {
    PackedGroup w = {block, block + kHeaderBytes, output};
    for (int32_t g = 0; g < kFormat.groups(); ++g, w.group += kGroupBytes, x += rows.rows) {
      ahead.fetch();
      addPart<kFormat, 0>(c, x, w);
      if constexpr (kFormat.scales == 2) addPart<kFormat, 1>(c, x, w);
      if constexpr (kFormat.mins) addMins<kFormat>(c, x, w);
    }
    block += kFormat.blockBytes() * kPanelWidth;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      const f32v scaled = fma(c[r][v], broadcast(scales[r].scale), load(before + r * stride + v * kLanes));
      store(to.c + r * to.stride + v * kLanes, kScaledGroups<kFormat> ? c[r][v] : scaled);
    }
  }
}

// kRows rows times some vectors of the panel, of which `ahead` fetches an equal share with each register block.
template <PackedFormat kFormat, int kRows, int kVectors>
void multiplyVectors(const QuantizedRows& x, int32_t row, const Slice& slice, Vectors vectors, const Target& to,
                     Ahead ahead) {
  const int32_t blocks = (vectors.end - vectors.first) / kVectors;
  const int32_t lines = static_cast<int32_t>(ceilDiv(ahead.lines, blocks * kSliceGroups));
  for (int32_t block = 0; block < blocks; ++block) {
    const int32_t column = block * kVectors * kLanes;
    const Ahead share = {ahead.address + static_cast<int64_t>(block) * kSliceGroups * lines * 64, lines};
    multiplyTile<kFormat, kRows, kVectors>(x, row, slice, vectors.first * kLanes + column, to.at(column), share);
  }
}

template <PackedFormat kFormat, int kRows>
void multiplyRows(const QuantizedRows& x, int32_t row, const Slice& slice, Vectors vectors, const Target& to,
                  Ahead ahead) {
  constexpr int kVectors = kRows * kPanelVectors * 2 <= kAccumulators ? kPanelVectors : kDotVectors;
  const bool isWhole = vectors.end - vectors.first == kPanelVectors;
  if (isWhole) return multiplyVectors<kFormat, kRows, kVectors>(x, row, slice, vectors, to, ahead);
  multiplyVectors<kFormat, kRows, kDotVectors>(x, row, slice, vectors, to, ahead);
}

// Row counts that no register block has are never asked for.
template <int kCount>
constexpr int kRowsOf = kCount <= kDotRows ? kCount : 1;

template <PackedFormat kFormat>
void multiplyRowBlock(const QuantizedRows& x, int32_t row, int32_t count, const Slice& slice, Vectors vectors,
                      const Target& to, Ahead ahead) {
  switch (count) {
    case 1:
      return multiplyRows<kFormat, 1>(x, row, slice, vectors, to, ahead);
    case 2:
      return multiplyRows<kFormat, kRowsOf<2>>(x, row, slice, vectors, to, ahead);
    case 3:
      return multiplyRows<kFormat, kRowsOf<3>>(x, row, slice, vectors, to, ahead);
    case 4:
      return multiplyRows<kFormat, kRowsOf<4>>(x, row, slice, vectors, to, ahead);
    case 5:
      return multiplyRows<kFormat, kRowsOf<5>>(x, row, slice, vectors, to, ahead);
    case 6:
      return multiplyRows<kFormat, kRowsOf<6>>(x, row, slice, vectors, to, ahead);
  }
}

// How many of the first row blocks of a slice fetch the next one, an equal share each. Of a part of a panel nothing is
// fetched.
int32_t sharesOf(const Item& item) {
  if (item.vectors.end - item.vectors.first < kPanelVectors) return 0;
  return minimum(static_cast<int32_t>(ceilDiv(item.rows, kDotRows)), kMaxShares);
}

template <PackedFormat kFormat>
int64_t panelBytes(int32_t groups) {
  return static_cast<int64_t>(groups / kFormat.groups()) * kFormat.blockBytes() * kPanelWidth;
}

// The rows and outputs of the item.
template <PackedFormat kFormat>
void multiplyItem(const QuantizedRows& x, const void* weights, const Item& item, const Sums& sums) {
  constexpr int64_t kSliceBytes =
      static_cast<int64_t>(kSliceColumns / kFormat.columns()) * kFormat.blockBytes() * kPanelWidth;
  const uint8_t* panel = static_cast<const uint8_t*>(weights) + item.panel * panelBytes<kFormat>(x.groups);
  const int32_t column = item.vectors.first * kLanes;
  const int32_t shares = sharesOf(item);
  const int64_t shareBytes = shares == 0 ? 0 : ceilDiv(kSliceBytes, shares);
  for (int32_t begin = 0; begin < x.groups; begin += kSliceGroups, panel += kSliceBytes) {
    const Slice slice = {begin, minimum(begin + kSliceGroups, x.groups), panel};
    const char* next = reinterpret_cast<const char*>(panel) + (item.rows == 1 ? kStreamAhead : kSliceBytes);
    int32_t share = 0;
    forRowBlocks(item.rows, kDotRows, [&](int32_t row, int32_t count) {
      const Ahead ahead =
          share < shares ? Ahead{next + share++ * shareBytes, static_cast<int32_t>(ceilDiv(shareBytes, 64))} : Ahead{};
      const Target to = sums.target(row, column, begin == 0, slice.end == x.groups);
      multiplyRowBlock<kFormat>(x, item.firstRow + row, count, slice, item.vectors, to, ahead);
    });
  }
}

struct Places {
  Blocks blocks;
  uint64_t sumBytes;
  PackedFormat format;
};

Places placesOf(const PagodaLinear& op, int32_t threads) {
  const Blocks blocks = cut(op, threads, kDotRows);
  return {blocks, sizeof(float) * threads * sumsPerWorker(blocks), packedFormat(op.weight.dtype, kByteOffset)};
}

QuantizedRows quantizeActivations(const KernelContext& context, const PagodaLinear& op, const Places& places) {
  void* memory = static_cast<char*>(context.scratch) + places.sumBytes;
  const QuantizedRows rows = {static_cast<QuantizedGroup*>(memory), op.x.rows, op.x.width / kGroupColumns};
  parallelRows(context.pool, op.x.rows, op.x.width,
               [&](int32_t row) { quantizeRow(rowOf(op.x, row), row, places.format, rows); });
  return rows;
}

QuantizedRows quantizedRowsOf(const PackedRows& x) {
  return {static_cast<QuantizedGroup*>(x.data), x.rows, x.width / kGroupColumns};
}

template <PagodaDtype kDtype>
struct Constant {
  constexpr operator PagodaDtype() const { return kDtype; }
};

// Calls body with the type as a constant.
template <class Body>
void withQuantizedDtype(PagodaDtype dtype, Body body) {
  switch (dtype) {
    case PAGODA_Q8_0:
      return body(Constant<PAGODA_Q8_0>());
    case PAGODA_Q4_0:
      return body(Constant<PAGODA_Q4_0>());
    case PAGODA_Q4_1:
      return body(Constant<PAGODA_Q4_1>());
    case PAGODA_Q5_0:
      return body(Constant<PAGODA_Q5_0>());
    case PAGODA_Q5_1:
      return body(Constant<PAGODA_Q5_1>());
    case PAGODA_Q4_K:
      return body(Constant<PAGODA_Q4_K>());
    case PAGODA_Q5_K:
      return body(Constant<PAGODA_Q5_K>());
    case PAGODA_Q6_K:
      return body(Constant<PAGODA_Q6_K>());
    case PAGODA_MXFP4:
      return body(Constant<PAGODA_MXFP4>());
    default:
      return;  // linear.cc
  }
}

template <PagodaDtype kDtype>
void multiplyAll(const KernelContext& context, const PagodaLinear& op) {
  constexpr PackedFormat kFormat = packedFormat(kDtype, kByteOffset);
  const Places places = placesOf(op, context.pool->threads());
  const QuantizedRows x = quantizeActivations(context, op, places);
  forItems(context, op, places.blocks, static_cast<float*>(context.scratch),
           [&](const Item& item, const Sums& sums) { multiplyItem<kFormat>(x, op.weight.data, item, sums); });
}

}  // namespace

uint64_t linearQuantizedScratch(const PagodaLinear& op, int32_t threads) {
  const Places places = placesOf(op, threads);
  return places.sumBytes + quantizedRowsBytes(op.x.rows, op.x.width);
}

void linearQuantized(const KernelContext& context, const PagodaLinear& op) {
  withQuantizedDtype(op.weight.dtype, [&](auto dtype) { multiplyAll<dtype>(context, op); });
}

uint64_t packedQuantizedBytes(int64_t rows, int32_t width) {
  return sizeof(QuantizedGroup) * static_cast<uint64_t>(rows) * (width / kGroupColumns);
}

void packQuantizedRow(const PackedRows& to, int32_t row, const float* x) {
  quantizeRow(x, row, packedFormat(to.dtype, kByteOffset), quantizedRowsOf(to));
}

void multiplyQuantizedPanel(const PackedRows& x, int32_t first, int32_t count, const PagodaWeight& weight,
                            int32_t panel, float* sums) {
  const Item item = {first, count, panel, kWholePanel};
  withQuantizedDtype(weight.dtype, [&](auto dtype) {
    multiplyItem<packedFormat(dtype, kByteOffset)>(quantizedRowsOf(x), weight.data, item, {sums, sums, kPanelWidth});
  });
}

}  // namespace pagoda::PAGODA_ISA
