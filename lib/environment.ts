/** Environment variables of this package, all in one place. */
export interface Environment {
  /** PAGODA_DEBUG: a comma-separated list of `plan` (print the plan when a model is loaded), `step` (print where each step's time goes), `stack` (print stacks in the command line tool). */
  readonly debug: ReadonlySet<string>;
  /** PAGODA_CUDA_PLUGIN: path of the CUDA plug-in, where it is neither built here nor installed as a package. */
  readonly plugIns: { readonly cuda: string | undefined };
}

export function readEnvironment(variables: NodeJS.ProcessEnv = process.env): Environment {
  const words = (variables["PAGODA_DEBUG"] ?? "").split(",").map((word) => word.trim());
  return {
    debug: new Set(words.filter((word) => word !== "")),
    plugIns: { cuda: variables["PAGODA_CUDA_PLUGIN"] || undefined },
  };
}
