# The emulated plug-in, which the conformance suite opens like any other, and the native tests of the CUDA sources.
list(APPEND cuda_sources ${cuda_sm90a_sources})
set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
set(emulator_sources
  native/test/cuda-emulator/emulator.cc
  native/test/cuda-emulator/runtime.cc
  native/test/cuda-emulator/setup.cc)

function(emulate_cuda target)
  target_include_directories(${target} PRIVATE native native/test/cuda-emulator)
  target_compile_definitions(${target} PRIVATE PAGODA_ISA=base)
  target_compile_options(${target} PRIVATE ${PAGODA_WARNINGS} -Wno-unknown-pragmas) # unroll
endfunction()

add_cuda_plug_in(pagoda_backend_cuda_emulated)
target_sources(pagoda_backend_cuda_emulated PRIVATE ${emulator_sources})
emulate_cuda(pagoda_backend_cuda_emulated)

# Opens the plug-in as the addon does.
add_native_test(cuda-host-test)
add_dependencies(cuda-host-test pagoda_backend_cuda_emulated)
target_compile_definitions(cuda-host-test PRIVATE PAGODA_EMULATED_PLUG_IN="$<TARGET_FILE:pagoda_backend_cuda_emulated>")

add_library(pagoda_cuda_emulator OBJECT ${emulator_sources})
emulate_cuda(pagoda_cuda_emulator)

add_native_test(cuda-emulator-test)
target_sources(cuda-emulator-test PRIVATE $<TARGET_OBJECTS:pagoda_cuda_emulator>)
emulate_cuda(cuda-emulator-test)

# The CPU backend, which this test compares with, brings the host sources.
add_native_test(cuda-emulated-test)
target_sources(cuda-emulated-test PRIVATE ${cuda_sources} $<TARGET_OBJECTS:pagoda_cuda_emulator>)
emulate_cuda(cuda-emulated-test)

if(PAGODA_SANITIZE)
  return() # ThreadSanitizer goes with no other
endif()

# Every CUDA thread as a thread of ThreadSanitizer, the emulator itself left out.
add_library(pagoda_cuda_race_emulator OBJECT ${emulator_sources})
emulate_cuda(pagoda_cuda_race_emulator)
target_compile_definitions(pagoda_cuda_race_emulator PRIVATE PAGODA_EMULATOR_TSAN)

function(add_race_test name)
  add_executable(${name} ${ARGN} $<TARGET_OBJECTS:pagoda_cuda_race_emulator>)
  emulate_cuda(${name})
  target_compile_options(${name} PRIVATE -O1 -fsanitize=thread)
  target_link_options(${name} PRIVATE -fsanitize=thread)
  add_test(NAME ${name} COMMAND ${name})
endfunction()

add_race_test(cuda-race-test native/test/cuda-emulated-test.cc ${cuda_sources})
target_link_libraries(cuda-race-test PRIVATE pagoda_core)
set_tests_properties(cuda-race-test PROPERTIES COST 200)
add_race_test(racy-kernel native/test/cuda-emulator/racy-kernel.cc)
set_tests_properties(racy-kernel PROPERTIES PASS_REGULAR_EXPRESSION "ThreadSanitizer: data race")
