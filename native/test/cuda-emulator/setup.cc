#include "setup.h"

#include <cstdlib>
#include <sstream>

namespace pagoda::emulator {
namespace {

constexpr int majorOf(double version) { return static_cast<int>(version); }
constexpr int minorOf(double version) { return static_cast<int>(10 * version + 0.5) % 10; }

std::vector<Capability> readGpus(const std::string& list) {
  std::vector<Capability> gpus;
  std::istringstream stream(list);
  for (std::string item; std::getline(stream, item, ',');) {
    const double version = std::atof(item.c_str());
    gpus.push_back({majorOf(version), minorOf(version)});
  }
  return gpus;
}

Fault readFault(const std::string& value) { return {std::atol(value.c_str()), !value.empty() && value.back() == '+'}; }

void set(Setup& setup, const std::string& name, const std::string& value) {
  if (name == "driver") {
    const double version = std::atof(value.c_str());
    setup.driver = 1000 * majorOf(version) + 10 * minorOf(version);
  }
  if (name == "gpus") setup.gpus = readGpus(value);
  if (name == "tensormaps") setup.hasTensorMaps = value != "0";
  if (name == "image") setup.hasImage = value != "0";
  if (name == "memory") setup.memory = std::strtoull(value.c_str(), nullptr, 10);
  if (name == "allocation") setup.allocation = readFault(value);
  if (name == "launch") setup.launch = readFault(value);
  if (name == "graph") setup.graph = readFault(value);
  if (name == "reset") setup.recovers = value != "0";
}

}  // namespace

Setup readSetup(const std::string& text) {
  Setup setup;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals != std::string::npos) set(setup, word.substr(0, equals), word.substr(equals + 1));
  }
  return setup;
}

}  // namespace pagoda::emulator
