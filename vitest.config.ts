import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: "100%", // engines of tests have two threads, of which one mostly waits
    testTimeout: 180_000,
    hookTimeout: 60_000,
  },
});
