import { describe, expect, test } from "vitest";
import { ConfigReader } from "../../lib/loading/config.js";
import { inverseFrequencies, ropeParameters, yarnScale } from "../../lib/loading/rope.js";

const longRopeConfig = {
  max_position_embeddings: 131_072,
  original_max_position_embeddings: 4096,
  rope_scaling: {
    type: "longrope",
    short_factor: [1, 1.02, 1.05, 1.1, 1.2, 1.4, 1.7, 2.1],
    long_factor: [1.08, 1.25, 2, 4.2, 9.1, 20.5, 40, 64],
  },
};

/** From Hugging Face transformers 5.18, in float32 on the CPU. */
const goldens = [
  {
    name: "default",
    headDim: 16,
    config: { rope_theta: 10000.0 },
    attentionScaling: 1,
    values: [1, 0.31622776, 0.1, 0.03162278, 0.01, 0.0031622779, 0.001, 0.0003162278],
  },
  {
    name: "default, large base",
    headDim: 32,
    config: { rope_theta: 1000000.0 },
    attentionScaling: 1,
    values: [
      1, 0.4216965, 0.17782794, 0.074989416, 0.03162278, 0.013335215, 0.0056234132, 0.0023713738,
      0.001, 0.0004216965, 0.00017782794, 7.4989424e-5, 3.1622774e-5, 1.3335214e-5, 5.6234135e-6,
      2.3713737e-6,
    ],
  },
  {
    name: "partial",
    headDim: 16,
    config: { rope_theta: 10000.0, partial_rotary_factor: 0.5 },
    attentionScaling: 1,
    values: [1, 0.1, 0.01, 0.001],
  },
  {
    name: "linear",
    headDim: 16,
    config: { rope_theta: 10000.0, rope_scaling: { type: "linear", factor: 4.0 } },
    attentionScaling: 1,
    values: [0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.00079056947, 0.00025, 7.905695e-5],
  },
  {
    name: "llama3",
    headDim: 32,
    config: {
      rope_theta: 500000.0,
      max_position_embeddings: 131072,
      rope_scaling: {
        rope_type: "llama3",
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
      },
    },
    attentionScaling: 1,
    values: [
      1, 0.44036663, 0.19392276, 0.0853971, 0.03760603, 0.01656044, 0.007292665, 0.003211446,
      0.000524846, 7.7846555e-5, 3.4281024e-5, 1.5096218e-5, 6.6478697e-6, 2.9274997e-6,
      1.2891732e-6, 5.677088e-7,
    ],
  },
  {
    name: "llama3 (1B)",
    headDim: 32,
    config: {
      max_position_embeddings: 131072,
      rope_parameters: {
        rope_theta: 500000.0,
        rope_type: "llama3",
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
      },
    },
    attentionScaling: 1,
    values: [
      1, 0.44036663, 0.19392276, 0.0853971, 0.03760603, 0.01656044, 0.007292665, 0.003211446,
      0.0004295567, 1.9461639e-5, 8.570256e-6, 3.7740544e-6, 1.6619674e-6, 7.3187493e-7,
      3.222933e-7, 1.419272e-7,
    ],
  },
  {
    name: "yarn (Qwen)",
    headDim: 32,
    config: {
      rope_theta: 1000000.0,
      max_position_embeddings: 131072,
      rope_scaling: { rope_type: "yarn", factor: 4.0, original_max_position_embeddings: 32768 },
    },
    attentionScaling: 1.138629436111989,
    values: [
      1, 0.4216965, 0.17782794, 0.074989416, 0.03162278, 0.013335215, 0.0047799014, 0.0016599617,
      0.00055, 0.00016867858, 4.4456985e-5, 1.8747356e-5, 7.905694e-6, 3.3338035e-6, 1.4058534e-6,
      5.9284343e-7,
    ],
  },
  {
    name: "yarn (DeepSeek)",
    headDim: 32,
    config: {
      rope_theta: 10000,
      max_position_embeddings: 163840,
      rope_scaling: {
        type: "yarn",
        factor: 40,
        beta_fast: 32,
        beta_slow: 1,
        mscale: 1.0,
        mscale_all_dim: 1.0,
        original_max_position_embeddings: 4096,
      },
    },
    attentionScaling: 1,
    values: [
      1, 0.56234133, 0.31622776, 0.17782794, 0.1, 0.05623413, 0.027218176, 0.012829017,
      0.0058214283, 0.0024903687, 0.00095997716, 0.0002921459, 2.5e-5, 1.40585325e-5, 7.9056945e-6,
      4.4456983e-6,
    ],
  },
  {
    name: "yarn (mscale)",
    headDim: 32,
    config: {
      rope_theta: 10000,
      max_position_embeddings: 163840,
      rope_scaling: {
        type: "yarn",
        factor: 40,
        beta_fast: 32,
        beta_slow: 1,
        mscale: 0.75,
        mscale_all_dim: 1.0,
        original_max_position_embeddings: 4096,
      },
    },
    attentionScaling: 0.932629996003703,
    values: [
      1, 0.56234133, 0.31622776, 0.17782794, 0.1, 0.05623413, 0.027218176, 0.012829017,
      0.0058214283, 0.0024903687, 0.00095997716, 0.0002921459, 2.5e-5, 1.40585325e-5, 7.9056945e-6,
      4.4456983e-6,
    ],
  },
  {
    name: "yarn, not truncated",
    headDim: 32,
    config: {
      max_position_embeddings: 131072,
      rope_parameters: {
        rope_theta: 150000.0,
        rope_type: "yarn",
        factor: 32.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: false,
        original_max_position_embeddings: 4096,
      },
    },
    attentionScaling: 1.3465735902799727,
    values: [
      1, 0.47478205, 0.225418, 0.10702442, 0.050813273, 0.019335002, 0.0067949593, 0.0020937927,
      0.00045648392, 3.830881e-5, 1.8188337e-5, 8.635496e-6, 4.0999785e-6, 1.9465963e-6,
      9.2420896e-7, 4.3879785e-7,
    ],
  },
  {
    name: "longrope, up to the pretraining context",
    headDim: 16,
    config: longRopeConfig,
    maxModelLen: 4096,
    attentionScaling: 1.1902380714238083,
    values: [
      1, 0.31002721, 0.095238097, 0.02874798, 0.0083333328, 0.0022587699, 0.00058823527,
      0.00015058466,
    ],
  },
  {
    name: "longrope, beyond",
    headDim: 16,
    config: longRopeConfig,
    maxModelLen: 4097,
    attentionScaling: 1.1902380714238083,
    values: [
      0.92592591, 0.25298223, 0.050000001, 0.0075292327, 0.001098901, 0.00015425745, 2.4999999e-5,
      4.9410592e-6,
    ],
  },
];

const read = (config: object, headDim = 16, layerType?: string) =>
  ropeParameters(new ConfigReader(config, "config.json"), {
    headDim,
    ...(layerType === undefined ? {} : { layerType }),
  });

describe("inverse frequencies", () => {
  test.each(goldens)("of $name are the reference's to the last bit but one", (golden) => {
    const { values, attentionScaling } = inverseFrequencies(
      read(golden.config, golden.headDim),
      "maxModelLen" in golden ? golden.maxModelLen : 4096,
    );
    expect(attentionScaling).toBe(golden.attentionScaling);
    expect(values).toHaveLength(golden.values.length);
    golden.values.forEach((expected, i) => {
      expect(Math.abs(values[i]! / Math.fround(expected) - 1)).toBeLessThan(1.2e-7);
    });
  });
});

describe("both styles of config", () => {
  const llama3 = {
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };

  test("give the same parameters", () => {
    const old = { rope_theta: 5e5, rope_scaling: { type: "llama3", ...llama3 } };
    const now = { rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...llama3 } };
    const expected = {
      type: "llama3",
      theta: 5e5,
      rotaryDim: 16,
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 8192,
    };
    expect(read(old)).toEqual(expected);
    expect(read(now)).toEqual(expected);
  });

  test("default to theta 10000 without scaling", () => {
    const expected = { type: "default", theta: 10_000, rotaryDim: 16 };
    expect(read({})).toEqual(expected);
    expect(read({ rope_scaling: null, rope_parameters: null })).toEqual(expected);
  });

  test("may rotate a part of the head", () => {
    expect(read({ partial_rotary_factor: 0.5 }).rotaryDim).toBe(8);
    expect(read({ rope_parameters: { partial_rotary_factor: 0.25 } }).rotaryDim).toBe(4);
  });

  test("may differ by layer type (Gemma 3)", () => {
    const old = {
      rope_theta: 1e6,
      rope_local_base_freq: 1e4,
      rope_scaling: { rope_type: "linear", factor: 8 },
    };
    const now = {
      rope_parameters: {
        full_attention: { rope_type: "linear", rope_theta: 1e6, factor: 8 },
        sliding_attention: { rope_type: "default", rope_theta: 1e4 },
      },
    };
    const local = { type: "default", theta: 1e4, rotaryDim: 16 };
    const global = { type: "linear", theta: 1e6, rotaryDim: 16, factor: 8 };
    for (const config of [old, now]) {
      expect(read(config, 16, "sliding_attention")).toEqual(local);
      expect(read(config, 16, "full_attention")).toEqual(global);
      expect(read(config)).toEqual(global);
    }
  });

  test("take a pretraining context at the top of the config first (Phi-3)", () => {
    const config = {
      original_max_position_embeddings: 4096,
      rope_scaling: { type: "llama3", ...llama3 },
    };
    expect(read(config)).toMatchObject({ originalMaxPositionEmbeddings: 4096 });
  });

  test("of yarn infer the factor from the context lengths", () => {
    const config = {
      max_position_embeddings: 131_072,
      rope_scaling: { type: "yarn", original_max_position_embeddings: 32_768 },
    };
    expect(read(config)).toMatchObject({ factor: 4, attentionFactor: 0.1 * Math.log(4) + 1 });
  });
});

test("yarnScale is 1 without extension", () => {
  expect(yarnScale(1, 1)).toBe(1);
  expect(yarnScale(40, 1)).toBeCloseTo(1.368_888, 6);
});

test.each(["dynamic", "proportional", "nope"])(
  "the rope type %s gives ERR_MODEL_UNSUPPORTED",
  (type) => {
    expect(() => read({ rope_scaling: { type, factor: 2 } })).toThrow(
      expect.objectContaining({
        code: "ERR_MODEL_UNSUPPORTED",
        details: expect.objectContaining({ ropeType: type }),
      }),
    );
  },
);

const scaling = (type: string, fields: object) => ({ rope_scaling: { type, ...fields } });

test.each([
  ["rope_theta", { rope_theta: 0 }],
  ["rope_theta", { rope_theta: "10000" }],
  ["rope_parameters.rope_theta", { rope_parameters: { rope_theta: -1 } }],
  ["rope_parameters", { rope_parameters: 1 }],
  ["rope_scaling", { rope_scaling: [] }],
  ["rope_scaling.type", { rope_scaling: { type: 1 } }],
  ["partial_rotary_factor", { partial_rotary_factor: 0 }],
  ["partial_rotary_factor", { partial_rotary_factor: 2 }],
  ["partial_rotary_factor", { partial_rotary_factor: 0.2 }],
  ["rope_scaling.factor", scaling("linear", {})],
  ["rope_scaling.factor", scaling("linear", { factor: 0 })],
  ["rope_scaling.factor", scaling("linear", { factor: null })],
  ["rope_scaling.low_freq_factor", scaling("llama3", { factor: 8 })],
  [
    "rope_scaling.high_freq_factor",
    scaling("llama3", { factor: 8, low_freq_factor: 4, high_freq_factor: 4 }),
  ],
  ["max_position_embeddings", scaling("yarn", { factor: 2 })],
  [
    "rope_scaling.beta_fast",
    scaling("yarn", { factor: 2, original_max_position_embeddings: 8, beta_fast: -1 }),
  ],
  ["rope_scaling.short_factor", { max_position_embeddings: 8, ...scaling("longrope", {}) }],
  [
    "rope_scaling.long_factor",
    {
      max_position_embeddings: 8,
      ...scaling("su", { short_factor: Array(8).fill(1), long_factor: [1] }),
    },
  ],
  ["rope_scaling.factors", scaling("factors", {})],
  ["rope_scaling.factors", scaling("factors", { factors: [1, 2, 3] })],
  ["rope_scaling.factors", scaling("factors", { factors: [1, 1, 1, 0, 1, 1, 1, 1] })],
  ["rope_parameters.sliding_attention", { rope_parameters: { full_attention: {} } }],
])("a wrong %s is named", (field, config) => {
  expect(() => read(config, 16, "sliding_attention")).toThrow(
    expect.objectContaining({
      code: "ERR_CONFIG_INVALID",
      details: expect.objectContaining({ field }),
    }),
  );
});

test("factors divide the frequencies one by one", () => {
  const factors = [1, 1, 1, 1, 2, 4, 8, 32];
  const plain = inverseFrequencies(read({}, 16), 4096).values;
  const { values, attentionScaling } = inverseFrequencies(
    read(scaling("factors", { factors }), 16),
    4096,
  );
  expect(attentionScaling).toBe(1);
  expect([...values]).toEqual(factors.map((factor, i) => plain[i]! / factor));
});
