# Tests of the lab itself by clients that other people wrote: govc, pyvmomi, openstacksdk, python-openstackclient,
# and the lab's own Go tests. tools/setup tests installs the clients; a missing one fails its test, it skips none.
if(NOT VMFERRY_LAB)
  return()
endif()

execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/setup paths OUTPUT_VARIABLE tool_paths RESULT_VARIABLE failed)
if(failed OR NOT tool_paths MATCHES "python=([^\n]+)\ngovc=([^\n]+)\n")
  message(FATAL_ERROR "tools/setup paths does not say where the test tools are: ${tool_paths}")
endif()
set(test_python ${CMAKE_MATCH_1})
set(test_govc ${CMAKE_MATCH_2})
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tools/setup
             ${CMAKE_SOURCE_DIR}/tools/requirements.txt)

# vmferry_lab_test(NAME vcenter TIMEOUT 300 COMMAND ...): the test lab.vcenter, label "lab". It finds the programs of
# this build in VMFERRY_BIN_DIR, the lab in VMFERRY_LAB_BIN, govc in GOVC and a python with the clients in
# VMFERRY_TEST_PYTHON. COST: about how many seconds it takes; ctest starts with the longest.
function(vmferry_lab_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT;WORKING_DIRECTORY;COST" "COMMAND;ENVIRONMENT" ${ARGN})
  if(NOT ARG_WORKING_DIRECTORY)
    set(ARG_WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  endif()
  if(NOT ARG_COST)
    set(ARG_COST 0)
  endif()
  set(environment PYTHONDONTWRITEBYTECODE=1 VMFERRY_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}
      VMFERRY_LAB_BIN=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/vmferry-lab GOVC=${test_govc}
      VMFERRY_TEST_PYTHON=${test_python} ${ARG_ENVIRONMENT})
  add_test(NAME lab.${ARG_NAME} COMMAND ${ARG_COMMAND} WORKING_DIRECTORY ${ARG_WORKING_DIRECTORY})
  set_tests_properties(lab.${ARG_NAME} PROPERTIES LABELS lab TIMEOUT ${ARG_TIMEOUT} COST ${ARG_COST}
                       ENVIRONMENT "${environment}")
endfunction()

set(lab_tests ${CMAKE_SOURCE_DIR}/tests/lab)
vmferry_lab_test(NAME govc TIMEOUT 1800 COST 40 COMMAND bash ${lab_tests}/govc.sh)
vmferry_lab_test(NAME vddk_clients TIMEOUT 1200 COST 20 COMMAND bash ${lab_tests}/vddk_clients.sh)
vmferry_lab_test(NAME go TIMEOUT 1800 COST 100 WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/lab
  COMMAND ${GO_PROGRAM} test -timeout 25m -trimpath -buildvcs=false ./...)

# Every python_NAME/test_FILE.py is a test lab.python_NAME.FILE, lab.python_NAME when FILE says the same again. The
# long ones run in parts, whole classes each, and the longest start first, so that all cores are busy to the end.
set(shards_of_python_migration.safety 2)
set(shards_of_python_migration.real_openstack 4) # the last two have what is not in every slice
set(cost_of_python_migration.change_tracking 290)
set(cost_of_python_migration.cycles 210)
set(cost_of_python_migration.real_openstack 600)
set(cost_of_python_migration.safety 200)
set(cost_of_python_migration.resume 130)
set(cost_of_python_migration.ways 150)
set(cost_of_python_migration.verify 100)
set(cost_of_python_migration.check 110)
set(shards_of_python_migration.hotadd 2)
set(cost_of_python_migration.hotadd 200)
set(cost_of_python_migration.transports 280)
set(cost_of_python_migration.brick 120)
set(cost_of_python_migration.vddk 150)
set(cost_of_python_migration.kills 90)
set(cost_of_python_migration.reread 70)
file(GLOB python_tests CONFIGURE_DEPENDS ${lab_tests}/python_*/test_*.py)
foreach(file IN LISTS python_tests)
  get_filename_component(folder ${file} DIRECTORY)
  get_filename_component(folder ${folder} NAME)
  get_filename_component(stem ${file} NAME_WE)
  string(REGEX REPLACE "^test_" "" stem ${stem})
  set(name ${folder})
  if(NOT folder STREQUAL "python_${stem}")
    string(APPEND name .${stem})
  endif()
  set(cost 60)
  if(cost_of_${name})
    set(cost ${cost_of_${name}})
  endif()
  if(shards_of_${name})
    foreach(shard RANGE 1 ${shards_of_${name}})
      vmferry_lab_test(NAME ${name}.${shard} TIMEOUT 3600 COST ${cost}
        COMMAND ${test_python} ${lab_tests}/shard.py ${shard}/${shards_of_${name}} ${file})
    endforeach()
  else()
    vmferry_lab_test(NAME ${name} TIMEOUT 3600 COST ${cost} COMMAND ${test_python} ${lab_tests}/shard.py 1/1 ${file})
  endif()
endforeach()

# Whole journeys, repeated for each point, moment or call: a slice of them by default. (kills has 200 rounds; reread has no
# cases, a slice of it is a smaller disk.)
vmferry_sliced_tests(crash SLICES 20 BY_CASE TESTS lab.python_migration.crash lab.python_migration.kills lab.python_migration.reread)
vmferry_sliced_tests(faults SLICES 24 BY_CASE TESTS lab.python_migration.faults)
# A real virt-v2v, a real libvirt and a guest that boots: minutes, and packages that only ./test --full conversion installs.
set(conversion_tests lab.python_migration.conversion lab.python_migration.libvirt)
set_tests_properties(${conversion_tests} PROPERTIES LABELS conversion)
set_property(TEST ${conversion_tests} APPEND PROPERTY ENVIRONMENT VMFERRY_ON_DEMAND=1)
# The real OpenStack: minutes, and packages that only ./test --full openstack and --label openstack install.
set(openstack_tests lab.python_migration.real_openstack.1 lab.python_migration.real_openstack.2
    lab.python_migration.real_openstack.3 lab.python_migration.real_openstack.4 lab.python_real_openstack)
vmferry_sliced_tests(openstack SLICES 6 BY_CASE TESTS ${openstack_tests})
set_property(TEST ${openstack_tests} APPEND PROPERTY ENVIRONMENT VMFERRY_ON_DEMAND=1)
# Without Nova's attaching: by os-brick, or by way of images. One of them a run.
vmferry_sliced_tests(ways SLICES 2 BY_TEST TESTS lab.python_migration.brick lab.python_migration.images)
# The ways to read disks, a whole suite each; some of them a run. What is common to all of them runs each time.
vmferry_sliced_tests(transport SLICES 3 BY_TEST TESTS lab.python_migration.hotadd.1 lab.python_migration.hotadd.2
                     lab.python_migration.ways lab.python_migration.vddk lab.vddk_clients)
set_property(TEST contract.source lab.python_migration.transports APPEND PROPERTY LABELS transport)
vmferry_sliced_tests(flags SLICES 4 BY_CASE TESTS lab.python_migration.flags)
set_tests_properties(lab.python_migration.crash lab.python_migration.kills lab.python_migration.reread lab.python_migration.faults
                     ${conversion_tests} ${openstack_tests} PROPERTIES TIMEOUT 7200)
