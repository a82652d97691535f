// The backend table: devices, memory, and the refusal of bad parameters.
#include <functional>

#include "cpu-fixture.h"

namespace pagoda::test {
namespace {

void testTable() {
  section("table");
  const PagodaBackend* api = pagodaCpuBackend();
  CHECK(api->abiVersion == PAGODA_ABI_VERSION && api->structSize == sizeof(PagodaBackend));
  CHECK(std::string(api->name) == "cpu");
  int32_t count = 0;
  PagodaError error;
  CHECK(api->deviceCount(&count, &error) == PAGODA_OK && count == 1);
}

void testOpen() {
  section("openDevice");
  const PagodaBackend* api = pagodaCpuBackend();
  const std::vector<std::string> names = isas();
  CHECK(!names.empty());
  const struct {
    PagodaDeviceOptions options;
    PagodaStatus status;
    const char* word;  // in the sentence
  } cases[] = {{{1, 0, nullptr}, PAGODA_UNAVAILABLE, "device"}, {{-1, 0, nullptr}, PAGODA_UNAVAILABLE, "device"},
               {{0, -1, nullptr}, PAGODA_INVALID, "threads"},   {{0, 1000000, nullptr}, PAGODA_INVALID, "threads"},
               {{0, 1, "sse9"}, PAGODA_UNAVAILABLE, "sse9"},    {{0, 1, "sse9"}, PAGODA_UNAVAILABLE, names[0].c_str()}};
  for (const auto& c : cases) {
    PagodaError error = {};
    PagodaDevice* device = nullptr;
    CHECK(api->openDevice(&c.options, &device, &error) == c.status && device == nullptr);
    CHECK(std::strstr(error.message, c.word) != nullptr, "\"%s\" lacks \"%s\"", error.message, c.word);
  }
  api->closeDevice(nullptr);
  for (const std::string& isa : isas()) {
    Device device(isa.c_str(), 3);
    PagodaDeviceInfo info;
    CHECK(api->deviceInfo(device.handle, &info, &device.error) == PAGODA_OK);
    CHECK(info.isa == isa && info.threads == 3 && info.name[0] != '\0');
    CHECK(info.availableMemory > 0 && info.availableMemory <= info.totalMemory);
  }
  Device automatic("", 0);
  CHECK(automatic.status == PAGODA_OK);
}

void testMemory() {
  section("memory");
  Device d(nullptr, 1);
  for (uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{255}, uint64_t{4097}, uint64_t{5} << 20}) {
    void* address = nullptr;
    CHECK(d.api->allocate(d.handle, bytes, &address, &d.error) == PAGODA_OK);
    CHECK(address != nullptr && reinterpret_cast<uintptr_t>(address) % 256 == 0);
    CHECK(d.api->fill(d.handle, address, 7, bytes, &d.error) == PAGODA_OK);
    std::vector<uint8_t> host(bytes, 1);
    CHECK(d.api->copyToHost(d.handle, host.data(), address, bytes, &d.error) == PAGODA_OK);
    CHECK(d.api->synchronize(d.handle, &d.error) == PAGODA_OK);
    CHECK(host == std::vector<uint8_t>(bytes, 7));
    host.assign(bytes, 9);
    CHECK(d.api->copyToDevice(d.handle, address, host.data(), bytes, &d.error) == PAGODA_OK);
    CHECK(bytes == 0 || std::memcmp(address, host.data(), bytes) == 0);
    d.api->release(d.handle, address);
  }
  d.api->release(d.handle, nullptr);
  for (uint64_t bytes : {uint64_t{1} << 45, uint64_t{1} << 60, UINT64_MAX - 100, UINT64_MAX}) {
    void* address = &d;
    CHECK(d.api->allocate(d.handle, bytes, &address, &d.error) == PAGODA_OUT_OF_MEMORY);
    CHECK(address == nullptr && std::strstr(d.error.message, std::to_string(bytes).c_str()) != nullptr, "%s",
          d.error.message);
  }
  CHECK(d.api->fill(d.handle, nullptr, 0, 1, &d.error) == PAGODA_INVALID);
  CHECK(d.api->copyToHost(d.handle, nullptr, &d, 1, &d.error) == PAGODA_INVALID);
  CHECK(d.api->copyToDevice(d.handle, nullptr, nullptr, 0, &d.error) == PAGODA_OK);
}

// ---- bad parameters --------------------------------------------------------------------------------

// Applies each change to a good op, and expects the refusal.
template <class Op>
struct Refusal {
  PagodaStatus status;
  std::function<void(Op&)> change;
};

template <class Op>
void refuse(Device& d, const char* name, PagodaStatus (*run)(PagodaDevice*, const Op*, PagodaError*), const Op& good,
            const std::vector<Refusal<Op>>& refusals) {
  section(std::string("refusals of ") + name);
  CHECK(run(d.handle, &good, &d.error) == PAGODA_OK, "%s", d.error.message);
  for (size_t i = 0; i < refusals.size(); ++i) {
    Op bad = good;
    refusals[i].change(bad);
    d.error.message[0] = '\0';
    const PagodaStatus status = run(d.handle, &bad, &d.error);
    CHECK(status == refusals[i].status, "change %zu gave %d, \"%s\"", i, status, d.error.message);
    CHECK(std::strlen(d.error.message) > 10, "change %zu has no sentence", i);
  }
}

constexpr PagodaStatus kInvalid = PAGODA_INVALID;
constexpr PagodaStatus kUnsupported = PAGODA_UNSUPPORTED;

struct Operands {
  Guarded a{std::vector<float>(64, 0.5f)};
  Guarded b{std::vector<float>(64, 0.25f)};
  Guarded out{64};
  std::vector<int32_t> ids = {0, 1, 2, 3};
};

void testRowOps(Device& d) {
  Operands o;
  const PagodaTensor a = tensorOf(o.a, 4, 8);
  const PagodaTensor b = tensorOf(o.b, 4, 8);
  const PagodaTensor out = tensorOf(o.out, 4, 8);
  Weight matrix(d, PAGODA_MATRIX, PAGODA_F32, 8, 8, std::vector<float>(64, 1));
  Weight vector(d, PAGODA_VECTOR, PAGODA_F32, 1, 8, std::vector<float>(8, 1));
  Weight frequency(d, PAGODA_VECTOR, PAGODA_F32, 1, 4, std::vector<float>(4, 1));
  refuse<PagodaAdd>(d, "add", d.api->add, {out, a, b},
                    {{kInvalid, [](auto& op) { op.a.data = nullptr; }},
                     {kInvalid, [](auto& op) { op.out.data = nullptr; }},
                     {kInvalid, [](auto& op) { op.b.width = 7; }},
                     {kInvalid, [](auto& op) { op.b.rows = 3; }},
                     {kInvalid, [](auto& op) { op.out.rows = op.a.rows = op.b.rows = -1; }},
                     {kInvalid, [](auto& op) { op.out.width = op.a.width = op.b.width = 0; }},
                     {kInvalid, [](auto& op) { op.a.rowStride = 7; }},
                     {kUnsupported, [](auto& op) { op.a.dtype = PAGODA_BF16; }},
                     {kUnsupported, [](auto& op) { op.out.dtype = PAGODA_F16; }}});
  refuse<PagodaGatedActivation>(d, "gatedActivation", d.api->gatedActivation, {out, a, b, PAGODA_SILU},
                                {{kInvalid, [](auto& op) { op.gate.width = 9; }},
                                 {kInvalid, [](auto& op) { op.up.data = nullptr; }},
                                 {kInvalid, [](auto& op) { op.activation = static_cast<PagodaActivation>(99); }}});
  refuse<PagodaTakeRows>(d, "takeRows", d.api->takeRows, {out, a, o.ids.data()},
                         {{kInvalid, [](auto& op) { op.rows = nullptr; }},
                          {kInvalid, [](auto& op) { op.x.rows = 3; }},
                          {kInvalid, [](auto& op) { op.x.width = 7; }}});
  refuse<PagodaRmsNorm>(d, "rmsNorm", d.api->rmsNorm, {out, a, vector.weight, 8, 1e-5f, 0},
                        {{kInvalid, [](auto& op) { op.groupWidth = 0; }},
                         {kInvalid, [](auto& op) { op.groupWidth = 3; }},
                         {kInvalid, [](auto& op) { op.groupWidth = 4; }},
                         {kInvalid, [](auto& op) { op.weight.data = nullptr; }},
                         {kInvalid, [](auto& op) { op.eps = kNaN; }},
                         {kUnsupported, [](auto& op) { op.weight.dtype = PAGODA_BF16; }}});
  refuse<PagodaLinear>(d, "linear", d.api->linear, {out, a, matrix.weight, vector.weight},
                       {{kInvalid, [](auto& op) { op.x.rows = 3; }},
                        {kInvalid, [](auto& op) { op.weight.cols = 9; }},
                        {kInvalid, [](auto& op) { op.weight.rows = 7; }},
                        {kInvalid, [](auto& op) { op.weight.kind = PAGODA_TABLE; }},
                        {kInvalid, [](auto& op) { op.bias.cols = 9; }},
                        {kInvalid, [](auto& op) { op.bias.kind = PAGODA_MATRIX; }},
                        {kUnsupported, [](auto& op) { op.weight.dtype = PAGODA_INT8; }}});
  refuse<PagodaEmbed>(d, "embed", d.api->embed, {out, o.ids.data(), matrix.weight, 1},
                      {{kInvalid, [](auto& op) { op.tokenIds = nullptr; }},
                       {kInvalid, [](auto& op) { op.table.kind = PAGODA_VECTOR; }},
                       {kInvalid, [](auto& op) { op.table.rows = 3; }},
                       {kInvalid, [](auto& op) { op.table.cols = 7; }}});
  refuse<PagodaRopeTable>(d, "ropeTable", d.api->ropeTable, {out, o.ids.data(), frequency.weight, 1},
                          {{kInvalid, [](auto& op) { op.positions = nullptr; }},
                           {kInvalid, [](auto& op) { op.out.width = 7; }},
                           {kInvalid, [](auto& op) { op.frequency.cols = 3; }}});
  refuse<PagodaRope>(d, "rope", d.api->rope, {out, a, b, 8, 8, 0},
                     {{kInvalid, [](auto& op) { op.headDim = 3; }},
                      {kInvalid, [](auto& op) { op.headDim = 4; }},
                      {kInvalid, [](auto& op) { op.rotaryDim = 10; }},
                      {kInvalid, [](auto& op) { op.rotaryDim = op.table.width = 3; }},
                      {kInvalid, [](auto& op) { op.table.rows = 3; }}});
}

void testCacheOps(Device& d) {
  Operands o;
  std::vector<float> blocks(2 * 4 * 2 * 8 * 3, 0.0f);
  const PagodaKvCache cache = {blocks.data(), 3, 4, 1, 8, PAGODA_F32, 0};
  const PagodaTensor a = tensorOf(o.a, 4, 8);
  const PagodaTensor b = tensorOf(o.b, 4, 8);
  refuse<PagodaCacheWrite>(d, "cacheWrite", d.api->cacheWrite, {a, b, cache, o.ids.data()},
                           {{kInvalid, [](auto& op) { op.cache.numBlocks = 0; }},
                            {kInvalid, [](auto& op) { op.cache.data = nullptr; }},
                            {kInvalid, [](auto& op) { op.cache.blockSize = 0; }},
                            {kInvalid, [](auto& op) { op.cache.numKvHeads = 2; }},
                            {kInvalid, [](auto& op) { op.value.width = 4; }},
                            {kInvalid, [](auto& op) { op.slotMapping = nullptr; }},
                            {kUnsupported, [](auto& op) { op.cache.headDim = 513; }},
                            {kUnsupported, [](auto& op) { op.cache.dtype = PAGODA_F16; }}});
  const int32_t pairs[] = {0, 1, 1, 2};
  const int32_t outside[] = {0, 3};
  const int32_t negative[] = {-1, 0};
  refuse<PagodaCopyBlocks>(d, "copyBlocks", d.api->copyBlocks, {cache, pairs, 2},
                           {{kInvalid,
                             [&](auto& op) {
                               op = {cache, outside, 1};
                             }},
                            {kInvalid,
                             [&](auto& op) {
                               op = {cache, negative, 1};
                             }},
                            {kInvalid, [](auto& op) { op.numPairs = -1; }},
                            {kInvalid, [](auto& op) { op.pairs = nullptr; }}});
  const int32_t starts[] = {0, 1, 4};
  const int32_t falling[] = {0, 5, 4};
  const int32_t lengths[] = {5, 8};
  const int32_t tooLong[] = {5, 9};
  const int32_t tooShort[] = {5, 2};
  const int32_t table[] = {0, 1, 2, 0};
  const PagodaBatch batch = {2, 4, 2, 3, 8, starts, lengths, table};
  refuse<PagodaAttention>(d, "attention", d.api->attention, {tensorOf(o.out, 4, 8), a, cache, batch, 1, 1, 0, 0},
                          {{kInvalid, [](auto& op) { op.numHeads = 2; }},
                           {kInvalid, [](auto& op) { op.numHeads = 0; }},
                           {kInvalid, [](auto& op) { op.cache.numKvHeads = 3; }},
                           {kInvalid, [](auto& op) { op.slidingWindow = -1; }},
                           {kInvalid, [](auto& op) { op.softcap = -1; }},
                           {kInvalid, [](auto& op) { op.batch.numTokens = 3; }},
                           {kInvalid, [](auto& op) { op.batch.numRequests = -1; }},
                           {kInvalid, [](auto& op) { op.batch.numRequests = 1; }},
                           {kInvalid, [](auto& op) { op.batch.maxBlocks = 1; }},
                           {kInvalid, [](auto& op) { op.batch.blockTable = nullptr; }},
                           {kInvalid, [](auto& op) { op.batch.seqLens = nullptr; }},
                           {kInvalid, [](auto& op) { op.batch.queryStartLoc = nullptr; }},
                           {kInvalid, [&](auto& op) { op.batch.queryStartLoc = falling; }},
                           {kInvalid, [&](auto& op) { op.batch.seqLens = tooLong; }},
                           {kInvalid, [&](auto& op) { op.batch.seqLens = tooShort; }},
                           {kUnsupported, [](auto& op) { op.query.dtype = PAGODA_BF16; }}});
}

void testSample(Device& d) {
  Operands o;
  const float ones[4] = {1, 1, 1, 1};
  const uint32_t seeds[8] = {};
  static const int32_t kTooLarge[4] = {8, 8, 8, 8};
  std::vector<int32_t> tokens(4);
  std::vector<int32_t> finite(4);
  refuse<PagodaSample>(d, "sample", d.api->sample,
                       {tensorOf(o.a, 4, 8),
                        ones,
                        o.ids.data(),
                        ones,
                        ones,
                        seeds,
                        o.ids.data(),
                        nullptr,
                        {},
                        tokens.data(),
                        finite.data(),
                        {}},
                       {{kInvalid, [](auto& op) { op.temperature = nullptr; }},
                        {kInvalid, [](auto& op) { op.targets = kTooLarge; }},
                        {kInvalid, [](auto& op) { op.controls.typicalP = op.topP; }},
                        {kInvalid, [](auto& op) { op.logprobs.wanted = kTooLarge; }},
                        {kInvalid, [](auto& op) { op.logprobs = {op.topK, -1, nullptr, nullptr, nullptr, nullptr}; }},
                        {kInvalid, [](auto& op) { op.tokens = nullptr; }},
                        {kInvalid, [](auto& op) { op.logits.width = 0; }},
                        {kUnsupported, [](auto& op) { op.logits.dtype = PAGODA_F16; }}});
}

void testWeights(Device& d) {
  section("refusals of weights");
  uint64_t bytes = 0;
  const struct {
    PagodaWeight weight;
    PagodaStatus status;
  } cases[] = {{{nullptr, PAGODA_MATRIX, 0, 4, PAGODA_F32}, kInvalid},
               {{nullptr, PAGODA_MATRIX, 4, -1, PAGODA_F32}, kInvalid},
               {{nullptr, PAGODA_MATRIX, INT32_MAX, INT32_MAX, PAGODA_F32}, kInvalid},
               {{nullptr, PAGODA_VECTOR, 2, 4, PAGODA_F32}, kInvalid},
               {{nullptr, PAGODA_VECTOR, 1, 4, PAGODA_BF16}, kUnsupported},
               {{nullptr, PAGODA_TABLE, 4, 4, PAGODA_INT8}, kUnsupported},
               {{nullptr, static_cast<PagodaWeightKind>(99), 4, 4, PAGODA_F32}, kInvalid},
               {{nullptr, PAGODA_TABLE, 1 << 30, 1 << 30, PAGODA_F32}, PAGODA_OK}};
  for (const auto& c : cases) {
    CHECK(d.api->weightBytes(d.handle, &c.weight, &bytes, &d.error) == c.status, "%d by %d", c.weight.rows,
          c.weight.cols);
  }
  CHECK(bytes == uint64_t{4} << 60, "%llu", static_cast<unsigned long long>(bytes));
  Weight weight(d, PAGODA_TABLE, PAGODA_F32, 4, 2);
  const float source[8] = {};
  auto prepare = [&](int32_t rowStart, int32_t rows, const void* from, PagodaDtype dtype) {
    return d.api->prepareWeight(d.handle, &weight.weight, rowStart, rows, from, dtype, &d.error);
  };
  CHECK(prepare(0, 5, source, PAGODA_F32) == kInvalid);
  CHECK(prepare(-1, 2, source, PAGODA_F32) == kInvalid);
  CHECK(prepare(4, 1, source, PAGODA_F32) == kInvalid);
  CHECK(prepare(INT32_MAX, INT32_MAX, source, PAGODA_F32) == kInvalid);
  CHECK(prepare(0, 4, nullptr, PAGODA_F32) == kInvalid);
  CHECK(prepare(0, 4, source, static_cast<PagodaDtype>(99)) == kUnsupported);
  CHECK(prepare(0, 4, source, PAGODA_F32) == PAGODA_OK);
  CHECK(weight.intact());
}

// A step that needs more scratch than there is memory fails and leaves the device usable.
void testScratch(Device& d) {
  section("scratch");
  float element = 0;
  std::vector<int32_t> starts(2);
  const PagodaTensor huge = {&element, 1 << 22, 1 << 29, 1 << 29, PAGODA_F32};
  const PagodaTensor out = {&element, 1 << 22, 1, 1, PAGODA_F32};
  const PagodaWeight weight = {&element, PAGODA_MATRIX, 1, 1 << 29, PAGODA_BF16};
  PagodaDeviceInfo info;
  d.api->deviceInfo(d.handle, &info, &d.error);
  const PagodaLinear linear = {out, huge, weight, kNoWeight};
  // Only avx512 needs scratch in proportion to the activations; the others must not be run on these operands.
  if (std::string(info.isa) == "avx512") CHECK(d.api->linear(d.handle, &linear, &d.error) == PAGODA_OUT_OF_MEMORY);
  Operands o;
  const PagodaAdd add = {tensorOf(o.out, 4, 8), tensorOf(o.a, 4, 8), tensorOf(o.b, 4, 8)};
  CHECK(d.api->add(d.handle, &add, &d.error) == PAGODA_OK && o.out[0] == 0.75f);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testTable();
  testOpen();
  testMemory();
  for (const std::string& isa : isas()) {
    Device device(isa.c_str(), 2);
    testRowOps(device);
    testCacheOps(device);
    testSample(device);
    testWeights(device);
    testScratch(device);
  }
  return finish();
}
