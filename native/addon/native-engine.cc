#include "native-engine.h"

#include <utility>
#include <vector>

#include "js.h"
#include "kv-transfer.h"
#include "loader.h"
#include "plug-in.h"
#include "read-plan.h"
#include "read-step.h"

namespace pagoda {

namespace {

/// Runs on the JavaScript thread. A terminating worker makes the call throw, which must not leave this function.
void callWake(Napi::Env env, Napi::Function onWake) {
  if (env == nullptr || onWake.IsEmpty()) return;
  try {
    onWake.Call({});
  } catch (const Napi::Error& error) {
    if (!env.IsExceptionPending()) error.ThrowAsJavaScriptException();
  }
}

/// A 64-bit count as two words, low first.
void pushCount(std::vector<int32_t>& values, uint64_t count) {
  values.push_back(static_cast<int32_t>(count & 0xffffffffu));
  values.push_back(static_cast<int32_t>(count >> 32));
}

/// Values: (token, finite) pairs. Floats: the log-probabilities, where rows want any.
void complete(Completion& completion, StepResult result) {
  for (size_t row = 0; row < result.tokens.size(); ++row) {
    completion.values.push_back(result.tokens[row]);
    completion.values.push_back(result.finite[row]);
  }
  completion.floats = std::move(result.logprobs);
}

/// A typed array that owns `data`; copies where the host forbids external memory (Electron).
template <typename T>
Napi::Value toTypedArray(Napi::Env env, std::vector<T> data) {
  using Array = Napi::TypedArrayOf<T>;
  const size_t length = data.size();
  if (length == 0) return Array::New(env, 0);
  auto* owned = new std::vector<T>(std::move(data));
  const auto release = [](Napi::BasicEnv, void*, std::vector<T>* memory) { delete memory; };
  try {
    const auto buffer = Napi::ArrayBuffer::New(env, owned->data(), length * sizeof(T), release, owned);
    return Array::New(env, length, buffer, 0);
  } catch (const Napi::Error&) {
    const std::unique_ptr<std::vector<T>> guard(owned);
    Array copy = Array::New(env, length);
    std::memcpy(copy.Data(), owned->data(), length * sizeof(T));
    return copy;
  }
}

}  // namespace

Device& NativeEngine::State::openedDevice() {
  require(device != nullptr, "The device is not open");
  return *device;
}

Runner& NativeEngine::State::openedRunner() {
  require(runner != nullptr, "No plan is open");
  return *runner;
}

Napi::Function NativeEngine::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {
                         InstanceAccessor<&NativeEngine::device>("device"),
                         InstanceMethod<&NativeEngine::openDevice>("openDevice"),
                         InstanceMethod<&NativeEngine::measure>("measure"),
                         InstanceMethod<&NativeEngine::open>("open"),
                         InstanceMethod<&NativeEngine::loadWeights>("loadWeights"),
                         InstanceMethod<&NativeEngine::setWeight>("setWeight"),
                         InstanceMethod<&NativeEngine::step>("step"),
                         InstanceMethod<&NativeEngine::stepLogits>("stepLogits"),
                         InstanceMethod<&NativeEngine::stepOne>("stepOne"),
                         InstanceMethod<&NativeEngine::sampleRows>("sampleRows"),
                         InstanceMethod<&NativeEngine::readBlocks>("readBlocks"),
                         InstanceMethod<&NativeEngine::writeBlocks>("writeBlocks"),
                         InstanceMethod<&NativeEngine::writeArena>("writeArena"),
                         InstanceMethod<&NativeEngine::readArena>("readArena"),
                         InstanceMethod<&NativeEngine::poison>("poison"),
                         InstanceMethod<&NativeEngine::profile>("profile"),
                         InstanceMethod<&NativeEngine::close>("close"),
                         InstanceMethod<&NativeEngine::drain>("drain"),
                         InstanceMethod<&NativeEngine::takeError>("takeError"),
                         InstanceMethod<&NativeEngine::takeFloats>("takeFloats"),
                         InstanceMethod<&NativeEngine::takeBytes>("takeBytes"),
                         InstanceMethod<&NativeEngine::ref>("ref"),
                         InstanceMethod<&NativeEngine::unref>("unref"),
                         InstanceMethod<&NativeEngine::join>("join"),
                     });
}

NativeEngine::NativeEngine(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<NativeEngine>(info), env_(info.Env()), state_(std::make_shared<State>()) {
  const Napi::Env env = info.Env();
  shutDown_ = true;  // nothing to shut down until everything is made
  guarded(env, [&] {
    const Napi::Object options = readObject(info[0], "options");
    require(info[1].IsFunction(), "Expected a function for onWake");
    state_->backend = openBackend(readString(property(options, "backend"), "backend"));
    state_->isa = readString(property(options, "isa"), "isa");
    state_->options = {readInt32(options, "device", kAnyDevice), readInt32(options, "threads"),
                       state_->isa.empty() ? nullptr : state_->isa.c_str()};
  });
  wake_ = Napi::ThreadSafeFunction::New(env, info[1].As<Napi::Function>(), "pagoda", 0, 1);
  wake_.Unref(env);
  // A failed call means that the environment is going away: nobody is left to be woken.
  thread_ = std::make_unique<EngineThread>([wake = wake_] { wake.NonBlockingCall(callWake); });
  napi_add_env_cleanup_hook(env_, onEnvCleanup, this);
  shutDown_ = false;
}

NativeEngine::~NativeEngine() { shutDown(); }

void NativeEngine::onEnvCleanup(void* self) { static_cast<NativeEngine*>(self)->shutDown(); }

void NativeEngine::shutDown() {
  if (shutDown_) return;
  shutDown_ = true;
  closed_ = true;
  thread_.reset();  // ends after the job under way
  state_.reset();
  napi_remove_env_cleanup_hook(env_, onEnvCleanup, this);
  wake_.Release();
}

Napi::Value NativeEngine::submit(Napi::Env env, StateJob job) {
  if (closed_) throw codedError(env, "ERR_CLOSED", "The engine is closed");
  const int32_t id =
      thread_->submit([state = state_, job = std::move(job)](Completion& completion) { job(*state, completion); });
  return Napi::Number::New(env, id);
}

Napi::Value NativeEngine::openDevice(const Napi::CallbackInfo& info) {
  return submit(info.Env(), [](State& state, Completion&) {
    require(state.device == nullptr, "The device is open already");
    state.device = pagoda::openDevice(state.backend, state.options);
    const PagodaDeviceInfo deviceInfo = state.device->info();
    const std::lock_guard<std::mutex> lock(state.infoMutex);
    state.info = deviceInfo;
    state.hasInfo = true;
  });
}

Napi::Value NativeEngine::device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (closed_) throw codedError(env, "ERR_CLOSED", "The engine is closed");
  const std::lock_guard<std::mutex> lock(state_->infoMutex);
  if (!state_->hasInfo) return env.Undefined();
  const PagodaDeviceInfo& device = state_->info;
  Napi::Object object = Napi::Object::New(env);
  object.Set("backend", state_->backend->name);
  object.Set("index", state_->options.device);
  object.Set("name", device.name);
  object.Set("isa", device.isa);
  object.Set("totalMemory", static_cast<double>(device.totalMemory));
  object.Set("availableMemory", static_cast<double>(device.availableMemory));
  object.Set("threads", device.threads);
  return object;
}

Napi::Value NativeEngine::measure(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto plan = std::make_shared<PlanSpec>(readPlan(info[0]));
    const KvOptions kv = readKvOptions(info[1], false);
    return submit(info.Env(), [plan, kv](State& state, Completion& completion) {
      const MemoryNeed need = pagoda::measure(state.openedDevice(), *plan, kv);
      pushCount(completion.values, need.weights);
      pushCount(completion.values, need.arena);
      pushCount(completion.values, need.kvBlock);
    });
  });
}

Napi::Value NativeEngine::open(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto plan = std::make_shared<PlanSpec>(readPlan(info[0]));
    const KvOptions kv = readKvOptions(info[1], true);
    const auto maxRequests = static_cast<int32_t>(readInteger(info[2], "maxRequests", 1, 1 << 20));
    require(info[3].IsBoolean(), "Expected a boolean for enforceEager");
    const bool enforceEager = info[3].As<Napi::Boolean>().Value();
    return submit(info.Env(), [plan, kv, maxRequests, enforceEager](State& state, Completion& completion) {
      require(state.runner == nullptr, "A plan is open already");
      state.runner = std::make_unique<Runner>(state.openedDevice(), std::move(*plan), kv, maxRequests, enforceEager);
      pushCount(completion.values, kvBlockBytes(*state.runner));
    });
  });
}

Napi::Value NativeEngine::loadWeights(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const std::atomic<bool>* closing = &thread_->closing();
    return submit(info.Env(), [closing, sources = readWeightSources(info[0])](State& state, Completion&) {
      pagoda::loadWeights(state.openedRunner(), sources, *closing);
    });
  });
}

Napi::Value NativeEngine::setWeight(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto index = static_cast<int32_t>(readInteger(info[0], "index", 0, INT32_MAX));
    return submit(info.Env(), [index, data = copyTypedArray<float>(info[1], "data")](State& state, Completion&) {
      pagoda::setWeight(state.openedRunner(), index, data);
    });
  });
}

Napi::Value NativeEngine::step(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto input = std::make_shared<StepInput>(readStepInput(info[0]));
    return submit(info.Env(), [input](State& state, Completion& completion) {
      complete(completion, state.openedRunner().run(*input));
    });
  });
}

Napi::Value NativeEngine::sampleRows(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto logits = std::make_shared<std::vector<float>>(copyTypedArray<float>(info[0], "logits"));
    const auto sampling = std::make_shared<SamplingInput>(readSamplingInput(info[1]));
    return submit(info.Env(), [logits, sampling](State& state, Completion& completion) {
      complete(completion, state.openedRunner().sampleRows(*logits, *sampling));
    });
  });
}

Napi::Value NativeEngine::stepLogits(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto input = std::make_shared<StepInput>(readStepInput(info[0]));
    return submit(info.Env(), [input](State& state, Completion& completion) {
      completion.floats = state.openedRunner().runLogits(*input);
    });
  });
}

Napi::Value NativeEngine::stepOne(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto input = std::make_shared<StepInput>(readStepInput(info[0]));
    const auto index = static_cast<size_t>(readInteger(info[1], "index", 0, INT32_MAX));
    return submit(info.Env(),
                  [input, index](State& state, Completion&) { state.openedRunner().runOne(*input, index); });
  });
}

Napi::Value NativeEngine::readBlocks(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    return submit(info.Env(),
                  [blocks = copyTypedArray<int32_t>(info[0], "blocks")](State& state, Completion& completion) {
                    completion.bytes = pagoda::readBlocks(state.openedRunner(), blocks);
                  });
  });
}

Napi::Value NativeEngine::writeBlocks(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    return submit(info.Env(), [blocks = copyTypedArray<int32_t>(info[0], "blocks"),
                               bytes = copyTypedArray<uint8_t>(info[1], "bytes")](State& state, Completion&) {
      pagoda::writeBlocks(state.openedRunner(), blocks, bytes);
    });
  });
}

Napi::Value NativeEngine::writeArena(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto offset = static_cast<uint64_t>(readInteger(info[0], "offset", 0, int64_t{1} << 53));
    return submit(info.Env(), [offset, data = copyTypedArray<float>(info[1], "data")](State& state, Completion&) {
      state.openedRunner().writeArena(offset, data);
    });
  });
}

Napi::Value NativeEngine::readArena(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto offset = static_cast<uint64_t>(readInteger(info[0], "offset", 0, int64_t{1} << 53));
    const auto length = static_cast<uint64_t>(readInteger(info[1], "length", 0, int64_t{1} << 53));
    return submit(info.Env(), [offset, length](State& state, Completion& completion) {
      completion.floats = state.openedRunner().readArena(offset, length);
    });
  });
}

Napi::Value NativeEngine::poison(const Napi::CallbackInfo& info) {
  return submit(info.Env(), [](State& state, Completion&) { state.openedRunner().poison(); });
}

Napi::Value NativeEngine::profile(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    require(info[0].IsBoolean(), "Expected a boolean for on");
    const bool on = info[0].As<Napi::Boolean>().Value();
    return submit(info.Env(),
                  [on](State& state, Completion& completion) { completion.floats = state.openedRunner().profile(on); });
  });
}

Napi::Value NativeEngine::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (closed_) throw codedError(env, "ERR_CLOSED", "The engine is closed");
  closed_ = true;
  const int32_t id = thread_->close([state = state_](Completion&) {
    state->runner.reset();
    state->device.reset();
  });
  return Napi::Number::New(env, id);
}

Napi::Value NativeEngine::drain(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto into = readTypedArray<int32_t>(info[0], "into");
    const size_t words = shutDown_ ? 0 : thread_->drain(into.Data(), into.ElementLength());
    return Napi::Number::New(info.Env(), static_cast<double>(words));
  });
}

Napi::Value NativeEngine::takeError(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const Napi::Env env = info.Env();
    Completion completion;
    const auto job = static_cast<int32_t>(readInteger(info[0], "job", 0, INT32_MAX));
    require(!shutDown_ && thread_->take(job, &completion), "There is no such failed job");
    Napi::Object error = Napi::Object::New(env);
    error.Set("code", completion.closed ? "ERR_CLOSED" : errorCode(completion.status));
    error.Set("message", completion.closed ? "The engine is closed" : completion.message);
    return error;
  });
}

Napi::Value NativeEngine::takeFloats(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return toTypedArray(info.Env(), take(info[0]).floats); });
}

Napi::Value NativeEngine::takeBytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return toTypedArray(info.Env(), take(info[0]).bytes); });
}

Completion NativeEngine::take(const Napi::Value& id) {
  Completion completion;
  const auto job = static_cast<int32_t>(readInteger(id, "job", 0, INT32_MAX));
  require(!shutDown_, "The engine is closed");
  thread_->take(job, &completion);  // a job without floats and bytes leaves an empty one
  return completion;
}

void NativeEngine::ref(const Napi::CallbackInfo& info) {
  if (!shutDown_) wake_.Ref(info.Env());
}

void NativeEngine::unref(const Napi::CallbackInfo& info) {
  if (!shutDown_) wake_.Unref(info.Env());
}

void NativeEngine::join(const Napi::CallbackInfo& info) {
  if (!closed_) throw codedError(info.Env(), "ERR_ARGUMENT", "join must follow close");
  shutDown();
}

}  // namespace pagoda
