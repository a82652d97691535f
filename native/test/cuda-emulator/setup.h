// What machine is emulated and what goes wrong in it, as the environment variable PAGODA_CUDA_EMULATOR says: words with
// spaces between them.
//
//   driver=12.2      the newest CUDA that the driver supports; 0: there is no driver
//   gpus=7.5,9.0     compute capability of each GPU; empty: there is none; by default 9.0 and 8.0
//   tensormaps=0     the driver cannot encode tensor maps
//   image=0          the plug-in has no code for the GPUs
//   memory=1000000   bytes of a GPU
//   allocation=3     the third allocation fails; 3+: all from the third on
//   launch=100       the hundredth launch breaks the GPU's context, as a bad address in a kernel would
//   graph=2          the second launch of a graph does the same
//   reset=0          a broken context cannot be made anew by this process
//
// When the text changes, counting begins anew and all contexts are whole.
#ifndef PAGODA_CUDA_EMULATOR_SETUP_H
#define PAGODA_CUDA_EMULATOR_SETUP_H

#include <cstddef>
#include <string>
#include <vector>

namespace pagoda::emulator {

struct Capability {
  int major, minor;
};

/// The how-manieth call fails, from 1 on; 0: none.
struct Fault {
  long call = 0;
  bool isLasting = false;  // and all after it

  bool hits(long number) const { return call > 0 && (isLasting ? number >= call : number == call); }
};

struct Setup {
  int driver = 13000;
  std::vector<Capability> gpus = {{9, 0}, {8, 0}};
  bool hasTensorMaps = true;
  bool hasImage = true;
  size_t memory = size_t{8} << 30;
  Fault allocation;
  Fault launch;
  Fault graph;
  bool recovers = true;
};

Setup readSetup(const std::string& text);

}  // namespace pagoda::emulator

#endif
