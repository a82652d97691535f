import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { readEnvironment } from "./environment.js";
import { loadNative, packageRoot, type BackendReport } from "./native.js";
import { packageVersion } from "./version.js";

/** A backend that is a shared library of its own: its path, or why there is none. */
export type PlugIn =
  | { readonly name: string; readonly path: string }
  | { readonly name: string; readonly reason: string };

/** Plug-ins and the platforms that there are packages for. */
const plugInPlatforms = { cuda: ["linux-x64"] } as const;

export type PlugInName = keyof typeof plugInPlatforms;

/**
 * The backends of this installation and whether each can be used here. The CPU is built in; others are plug-ins. Starting a
 * driver takes a while, during which the event loop stands still.
 *
 * @throws PagodaError ERR_NATIVE_NOT_FOUND
 */
export function backends(): BackendReport[] {
  return loadNative().backends(
    findPlugIns().flatMap((found) => ("path" in found ? found.path : [])),
  );
}

export function findPlugIns(): PlugIn[] {
  return (Object.keys(plugInPlatforms) as PlugInName[]).map(findPlugIn);
}

/**
 * A plug-in's library: the one that PAGODA_CUDA_PLUGIN names, else a local build, else that of the package
 * (`pagoda-llm-cuda-linux-x64`), which must be of this package's version.
 */
export function findPlugIn(name: PlugInName): PlugIn {
  const { plugIns } = readEnvironment();
  const given = plugIns[name];
  if (given !== undefined) return { name, path: path.resolve(given) };
  const local = path.join(packageRoot, "build", "Release", `pagoda_backend_${name}.so`);
  return existsSync(local) ? { name, path: local } : installedPlugIn(name);
}

function installedPlugIn(name: PlugInName): PlugIn {
  const platform = `${process.platform}-${process.arch}`;
  if (!plugInPlatforms[name].some((known) => known === platform)) {
    return { name, reason: `there is no ${name} plug-in for ${platform}` };
  }
  const packageName = `pagoda-llm-${name}-${platform}`;
  const require = createRequire(path.join(packageRoot, "package.json"));
  try {
    const { version } = require(`${packageName}/package.json`) as { version: string };
    const wanted = packageVersion();
    if (version !== wanted) {
      return { name, reason: `${packageName} has version ${version}, and ${wanted} is needed` };
    }
    return { name, path: require(`${packageName}/backend`) as string };
  } catch (error) {
    if ((error as { code?: unknown }).code !== "MODULE_NOT_FOUND") {
      return { name, reason: `${packageName} is broken: ${String(error)}` };
    }
    return { name, reason: `its plug-in, package ${packageName}, is not installed` };
  }
}
