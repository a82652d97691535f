"""The CUDA kernels from Python: native/backend.h and native/cuda/capi.h by ctypes.

Arrays go in and come out as numpy arrays; `Device.tensor` also takes addresses of others, such as torch's."""

import ctypes as c
import numpy as np

F32, BF16, F16, Q8_0, Q4_0, Q4_K, INT8 = 0, 1, 2, 3, 4, 8, 11
MATRIX, TABLE, VECTOR = 0, 1, 2
SILU, GELU_TANH, GELU, CLAMPED_SWIGLU = 0, 1, 2, 3
ABI_VERSION = 8


def structure(name, **fields):
    return type(name, (c.Structure,), {"_fields_": list(fields.items())})


i32, i64, f32, u64, pointer = c.c_int32, c.c_int64, c.c_float, c.c_uint64, c.c_void_p

Error = structure("Error", message=c.c_char * 256)
Tensor = structure("Tensor", data=pointer, rows=i32, width=i32, rowStride=i64, dtype=c.c_int)
Weight = structure("Weight", data=pointer, kind=c.c_int, rows=i32, cols=i32, dtype=c.c_int)
KvCache = structure("KvCache", data=pointer, numBlocks=i32, blockSize=i32, numKvHeads=i32, headDim=i32,
                    dtype=c.c_int, latentDim=i32)
Batch = structure("Batch", numRequests=i32, numTokens=i32, maxBlocks=i32, maxQueryLen=i32, maxSeqLen=i32,
                  queryStartLoc=pointer, seqLens=pointer, blockTable=pointer, hostQueryStartLoc=pointer,
                  hostSeqLens=pointer)

RmsNorm = structure("RmsNorm", out=Tensor, x=Tensor, weight=Weight, groupWidth=i32, eps=f32, weightOffset=f32)
Linear = structure("Linear", out=Tensor, x=Tensor, weight=Weight, bias=Weight)
CacheWrite = structure("CacheWrite", key=Tensor, value=Tensor, cache=KvCache, slotMapping=pointer)
LatentWrite = structure("LatentWrite", latent=Tensor, ropeKey=Tensor, cache=KvCache, slotMapping=pointer)
GatherKv = structure("GatherKv", out=Tensor, cache=KvCache, batch=Batch, layout=i32)
Attention = structure("Attention", out=Tensor, query=Tensor, cache=KvCache, batch=Batch, numHeads=i32, scale=f32,
                      slidingWindow=i32, softcap=f32, sinks=Weight)
MlaAttention = structure("MlaAttention", out=Tensor, query=Tensor, queryRope=Tensor, cache=KvCache, batch=Batch,
                         keyUp=Weight, valueUp=Weight, keyExpand=Weight, numHeads=i32, scale=f32, expandFrom=i32)
Route = structure("Route", out=Tensor, logits=Tensor, bias=Weight, topK=i32, scoring=c.c_int, normalize=i32,
                  scale=f32, numGroups=i32, topGroups=i32, groupScore=c.c_int)
Experts = structure("Experts", out=Tensor, x=Tensor, route=Tensor, gate=Weight, up=Weight, down=Weight,
                    gateBias=Weight, upBias=Weight, downBias=Weight, numExperts=i32, activation=c.c_int)

# The table after abiVersion, structSize and name, in its order.
FUNCTIONS = """deviceCount openDevice closeDevice deviceInfo allocate release copyToDevice copyToHost fill synchronize
weightBytes prepareWeight kvBlockBytes embed rmsNorm linear ropeTable rope cacheWrite copyBlocks attention latentWrite
mlaAttention gatherKv gatedActivation add route experts takeRows sample beginGraph endGraph runGraph
releaseGraph""".split()
Table = type("Table", (c.Structure,), {
    "_fields_": [("abiVersion", c.c_uint32), ("structSize", c.c_uint32), ("name", c.c_char_p)]
    + [(name, pointer) for name in FUNCTIONS]})


class Device:
    """An open device. `stream`: a cudaStream_t to share, for example torch.cuda.current_stream().cuda_stream."""

    def __init__(self, library, stream=None, index=0):
        self.library = c.CDLL(library)
        self.library.pagodaBackend.restype = c.POINTER(Table)
        self.table = self.library.pagodaBackend().contents
        if (self.table.abiVersion, self.table.structSize) != (ABI_VERSION, c.sizeof(Table)):
            raise RuntimeError("bench/gpu/pagoda.py does not fit the library's backend.h")
        self.handle = pointer()
        self.memory = []
        error = Error()
        status = self.library.pagodaCudaOpen(i32(index), pointer(stream), c.byref(self.handle), c.byref(error))
        self.check("pagodaCudaOpen", status, error)

    def close(self):
        self.free()
        c.CFUNCTYPE(None, pointer)(self.table.closeDevice)(self.handle)

    def free(self):
        """Frees all that was allocated so far."""
        release = c.CFUNCTYPE(None, pointer, pointer)(self.table.release)
        for address in self.memory:
            release(self.handle, address)
        self.memory = []

    @staticmethod
    def check(what, status, error):
        if status != 0:
            raise RuntimeError(f"{what}: status {status}: {error.message.decode()}")

    def call(self, name, *arguments):
        error = Error()
        types = [c.c_int, pointer] + [type(argument) for argument in arguments] + [c.POINTER(Error)]
        function = c.CFUNCTYPE(*types)(getattr(self.table, name))
        self.check(name, function(self.handle, *arguments, c.byref(error)), error)

    def run(self, name, op):
        """Queues an op."""
        self.call(name, c.pointer(op))

    def synchronize(self):
        self.call("synchronize")

    def allocate(self, size):
        """Memory full of NaN."""
        address = pointer()
        self.call("allocate", u64(size), c.pointer(address))
        self.call("fill", address, c.c_uint8(0xFF), u64(size))
        self.memory.append(address.value)
        return address.value

    def upload(self, array):
        array = np.ascontiguousarray(array)
        address = self.allocate(max(array.nbytes, 1))
        if array.nbytes:
            self.call("copyToDevice", pointer(address), array.ctypes.data_as(pointer), u64(array.nbytes))
        return address

    def download(self, tensor):
        array = np.empty((tensor.rows, tensor.rowStride), np.float32)
        self.call("copyToHost", array.ctypes.data_as(pointer), pointer(tensor.data), u64(array.nbytes))
        self.synchronize()
        return array[:, : tensor.width]

    def tensor(self, array):
        array = np.asarray(array, np.float32)
        return Tensor(self.upload(array), array.shape[0], array.shape[1], array.shape[1], F32)

    def output(self, rows, width):
        return Tensor(self.allocate(4 * rows * width), rows, width, width, F32)

    def weight(self, array, dtype=BF16, kind=MATRIX):
        """A matrix [outputs, inputs], rounded to `dtype`, or with `kind=VECTOR` a vector."""
        array = np.ascontiguousarray(np.atleast_2d(array), np.float32)
        weight = Weight(None, kind, array.shape[0], array.shape[1], F32 if kind == VECTOR else dtype)
        size = u64()
        self.call("weightBytes", c.pointer(weight), c.pointer(size))
        weight.data = self.allocate(size.value)
        source = array.ctypes.data_as(pointer)
        self.call("prepareWeight", c.pointer(weight), i32(0), i32(array.shape[0]), source, c.c_int(F32))
        return weight

    def cache(self, numBlocks, blockSize, numKvHeads, headDim, dtype=BF16, latentDim=0):
        cache = KvCache(None, numBlocks, blockSize, numKvHeads, headDim, dtype, latentDim)
        size = u64()
        self.call("kvBlockBytes", c.pointer(cache), c.pointer(size))
        cache.data = self.allocate(size.value * numBlocks)
        return cache

    def batch(self, layout):
        """A Batch of layout.queryLens, seqLens and blockTable (see `Layout`)."""
        start = np.concatenate([[0], np.cumsum(layout.queryLens)]).astype(np.int32)
        lengths = layout.seqLens.astype(np.int32)
        batch = Batch(len(lengths), int(start[-1]), layout.blockTable.shape[1], int(max(layout.queryLens)),
                      int(max(lengths)), self.upload(start), self.upload(lengths),
                      self.upload(layout.blockTable.astype(np.int32)), start.ctypes.data, lengths.ctypes.data)
        batch.host = start, lengths  # live as long as it does
        return batch


class Layout:
    """Requests whose blocks are shuffled over a cache; entries of the table that are not used are far out of range."""

    UNUSED = 2147480000

    def __init__(self, rng, requests, blockSize):
        """requests: (tokens of this step, tokens before) of each."""
        self.queryLens = np.array([tokens for tokens, _ in requests])
        self.seqLens = np.array([tokens + before for tokens, before in requests])
        counts = -(-self.seqLens // blockSize)
        self.numBlocks = 1 + int(counts.sum())
        ids = 1 + rng.permutation(self.numBlocks - 1)
        self.blockTable = np.full((len(requests), max(1, int(counts.max()))), self.UNUSED, np.int64)
        first = 0
        for request, count in enumerate(counts):
            self.blockTable[request, :count] = ids[first : first + count]
            first += count
        self.slots = np.concatenate([
            self.blockTable[request, np.arange(n) // blockSize] * blockSize + np.arange(n) % blockSize
            for request, n in enumerate(self.seqLens)]).astype(np.int32)
