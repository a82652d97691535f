"use strict";
// The path of the plug-in, which pagoda-llm opens.
module.exports = require("node:path").join(__dirname, "libpagoda_cuda.so");
