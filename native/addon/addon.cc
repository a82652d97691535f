// The addon: Node-API only, no maths. lib/native.ts types everything here.
#include <napi.h>

#include "js.h"
#include "native-engine.h"
#include "plan.h"
#include "plug-in.h"

namespace pagoda {

namespace {

Napi::Object describeOps(Napi::Env env) {
  Napi::Object ops = Napi::Object::New(env);
  for (const OpSpec& spec : opSpecs()) {
    Napi::Array attributes = Napi::Array::New(env);
    for (const char* name : spec.attributes) attributes.Set(attributes.Length(), name);
    ops.Set(spec.name, attributes);
  }
  return ops;
}

Napi::Object describeBackend(Napi::Env env, const BackendReport& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", report.name);
  object.Set("available", report.available);
  object.Set("deviceCount", report.deviceCount);
  if (!report.reason.empty()) object.Set("reason", report.reason);
  if (!report.path.empty()) object.Set("path", report.path);
  return object;
}

Napi::Value backends(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    const Napi::Array plugIns = readArray(info[0], "plugins");
    Napi::Array reports = Napi::Array::New(env);
    reports.Set(0u, describeBackend(env, inspectBackend("cpu")));
    for (uint32_t i = 0; i < plugIns.Length(); ++i)
      reports.Set(i + 1, describeBackend(env, inspectBackend(readString(plugIns[i], "plugins"))));
    return reports;
  });
}

}  // namespace

/// Instance data keeps nothing global: the addon works in every worker thread.
class PagodaAddon : public Napi::Addon<PagodaAddon> {
 public:
  PagodaAddon(Napi::Env env, Napi::Object exports) {
    exports.Set("abiVersion", PAGODA_ABI_VERSION);
    exports.Set("ops", describeOps(env));
    exports.Set("backends", Napi::Function::New(env, backends, "backends"));
    exports.Set("NativeEngine", NativeEngine::define(env));
  }
};

}  // namespace pagoda

using pagoda::PagodaAddon;
NODE_API_ADDON(PagodaAddon)
