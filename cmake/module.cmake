# One module = one folder of src/ = one namespace = one static library vmferry_<name>.
#
#   vmferry_module(vsphere LAYER 3 USES base model log http SYSTEM pugixml::pugixml)
#
# USES names modules of a strictly lower layer; anything else stops the configuration. SYSTEM libraries are
# private: their headers stay in .cpp files (tools/check-includes holds both rules against the sources).
# Tests of a module live in tests/unit/<name> and tests/contract/<name>; each folder is one test program.

set_property(GLOBAL PROPERTY VMFERRY_LAYERS "")

function(vmferry_module name)
  cmake_parse_arguments(ARG "" "LAYER" "USES;SYSTEM;PUBLIC_SYSTEM" ${ARGN})
  foreach(used IN LISTS ARG_USES)
    get_property(used_layer GLOBAL PROPERTY VMFERRY_LAYER_${used})
    if("${used_layer}" STREQUAL "")
      message(FATAL_ERROR "module ${name} uses ${used}, which is not declared before it")
    endif()
    if(NOT used_layer LESS ARG_LAYER)
      message(FATAL_ERROR "module ${name} (layer ${ARG_LAYER}) may not use ${used} (layer ${used_layer})")
    endif()
  endforeach()
  set_property(GLOBAL PROPERTY VMFERRY_LAYER_${name} ${ARG_LAYER})
  set_property(GLOBAL APPEND_STRING PROPERTY VMFERRY_LAYERS "${name} ${ARG_LAYER} ${ARG_USES}\n")

  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  list(TRANSFORM ARG_USES PREPEND vmferry_ OUTPUT_VARIABLE used_targets)
  if(sources)
    add_library(vmferry_${name} STATIC ${sources})
    target_include_directories(vmferry_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(vmferry_${name} PUBLIC vmferry_options ${used_targets} ${ARG_PUBLIC_SYSTEM} PRIVATE ${ARG_SYSTEM})
  else()
    add_library(vmferry_${name} INTERFACE)
    target_include_directories(vmferry_${name} INTERFACE ${CMAKE_SOURCE_DIR}/src)
    target_link_libraries(vmferry_${name} INTERFACE vmferry_options ${used_targets} ${ARG_PUBLIC_SYSTEM} ${ARG_SYSTEM})
  endif()
endfunction()

# vmferry_tests(unit vsphere USES http ...): the program unit_vsphere from tests/unit/vsphere/*.cpp, label "unit".
function(vmferry_tests kind name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "USES;SYSTEM" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${kind}/${name}/*.cpp)
  if(NOT sources)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(program ${kind}_${name})
  add_executable(${program} ${sources})
  list(TRANSFORM ARG_USES PREPEND vmferry_ OUTPUT_VARIABLE used_targets)
  target_link_libraries(${program} PRIVATE vmferry_${name} ${used_targets} vmferry_support vmferry_options ${ARG_SYSTEM}
                        GTest::gtest GTest::gtest_main rapidcheck rapidcheck_gtest)
  target_include_directories(${program} PRIVATE ${CMAKE_BINARY_DIR}/generated)
  # What is tested is optimized, the tests need not be: that halves the time to compile them.
  target_compile_options(${program} PRIVATE -O0)
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${kind}.${name} COMMAND ${program} --gtest_brief=1)
  set_tests_properties(${kind}.${name} PROPERTIES LABELS ${kind} TIMEOUT ${ARG_TIMEOUT})
endfunction()
