{ # A bridge only: CMakeLists.txt is the one build description. prebuildify calls node-gyp, which compiles nothing itself.
  "targets": [{
    "target_name": "cmake_bridge",
    "type": "none",
    "actions": [{
      "action_name": "cmake",
      "message": "Building the addon with CMake",
      "inputs": ["CMakeLists.txt"],
      "outputs": ["<(PRODUCT_DIR)/pagoda.node"],
      "action": ["node", "scripts/build-native.cjs", "--config", "<(CONFIGURATION_NAME)", "--out", "<(PRODUCT_DIR)", "--arch", "<(target_arch)"]
    }]
  }]
}
