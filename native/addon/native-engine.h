// The class NativeEngine of lib/native.ts: one device, one plan, one engine thread.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "engine-thread.h"
#include "runner.h"

namespace pagoda {

class NativeEngine : public Napi::ObjectWrap<NativeEngine> {
 public:
  static Napi::Function define(Napi::Env env);

  explicit NativeEngine(const Napi::CallbackInfo& info);
  ~NativeEngine() override;

 private:
  /// Owned by the engine thread, but for `info` and `infoMutex`.
  struct State {
    const PagodaBackend* backend = nullptr;
    PagodaDeviceOptions options = {};
    std::string isa;
    std::unique_ptr<Device> device;
    std::unique_ptr<Runner> runner;  // after device: freed before it
    std::mutex infoMutex;
    bool hasInfo = false;
    PagodaDeviceInfo info = {};

    Device& openedDevice();
    Runner& openedRunner();
  };
  using StateJob = std::function<void(State&, Completion&)>;

  // Jobs: each returns its id.
  Napi::Value openDevice(const Napi::CallbackInfo& info);
  Napi::Value measure(const Napi::CallbackInfo& info);
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value loadWeights(const Napi::CallbackInfo& info);
  Napi::Value setWeight(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value stepLogits(const Napi::CallbackInfo& info);
  Napi::Value stepOne(const Napi::CallbackInfo& info);
  Napi::Value sampleRows(const Napi::CallbackInfo& info);
  Napi::Value readBlocks(const Napi::CallbackInfo& info);
  Napi::Value writeBlocks(const Napi::CallbackInfo& info);
  Napi::Value writeArena(const Napi::CallbackInfo& info);
  Napi::Value readArena(const Napi::CallbackInfo& info);
  Napi::Value poison(const Napi::CallbackInfo& info);
  Napi::Value profile(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  // At once.
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value drain(const Napi::CallbackInfo& info);
  Napi::Value takeError(const Napi::CallbackInfo& info);
  Napi::Value takeFloats(const Napi::CallbackInfo& info);
  Napi::Value takeBytes(const Napi::CallbackInfo& info);
  void ref(const Napi::CallbackInfo& info);
  void unref(const Napi::CallbackInfo& info);
  void join(const Napi::CallbackInfo& info);

  Napi::Value submit(Napi::Env env, StateJob job);
  /// What the drained job `id` left, once.
  Completion take(const Napi::Value& id);
  /// Ends and joins the thread and lets go of the wake. Idempotent; runs on the JavaScript thread.
  void shutDown();
  static void onEnvCleanup(void* self);

  const napi_env env_;
  std::shared_ptr<State> state_;
  Napi::ThreadSafeFunction wake_;
  std::unique_ptr<EngineThread> thread_;
  bool closed_ = false;    // close was called
  bool shutDown_ = false;  // thread joined, wake_ released
};

}  // namespace pagoda
