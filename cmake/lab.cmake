# The lab: Go programs that stand in for vCenter, ESXi and OpenStack (lab/), built beside the product.
find_program(GO_PROGRAM go HINTS /usr/lib/go/bin /usr/lib/go-1.19/bin REQUIRED)
file(GLOB_RECURSE lab_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/lab/*.go ${CMAKE_SOURCE_DIR}/lab/go.mod
     ${CMAKE_SOURCE_DIR}/lab/devices/mount ${CMAKE_SOURCE_DIR}/lab/realcloud/etc/* ${CMAKE_SOURCE_DIR}/lab/realcloud/shim/* ${CMAKE_SOURCE_DIR}/lab/realcloud/python/*)
foreach(program vmferry-lab vmferry-prove)
  if(EXISTS ${CMAKE_SOURCE_DIR}/lab/cmd/${program})
    add_custom_command(
      OUTPUT ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${program}
      COMMAND ${GO_PROGRAM} build -trimpath -buildvcs=false -o ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${program} ./cmd/${program}
      WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/lab
      DEPENDS ${lab_sources}
      COMMENT "Building ${program} (Go)")
    add_custom_target(${program} ALL DEPENDS ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${program})
  endif()
endforeach()
