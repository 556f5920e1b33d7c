# Suites too long for every run: ./test runs a slice of them, chosen by a seed it prints, ./test --full LABEL all.
#
#   vmferry_sliced_tests(crash SLICES 8 BY_TEST TESTS crash.before_act crash.after_act ...)
#   vmferry_sliced_tests(faults SLICES 4 BY_CASE TESTS faults)
#
# gives existing tests the label. BY_TEST: many tests, of which ./test picks one in SLICES. BY_CASE: the program has
# the cases inside and picks: with VMFERRY_SLICE_SEED in its environment it runs the cases i (from 0) for which
# (i + seed) modulo VMFERRY_SLICES is 0, and without it all of them. tools/select-tests reads the same variables.
function(vmferry_sliced_tests label)
  cmake_parse_arguments(ARG "BY_TEST;BY_CASE" "SLICES" "TESTS" ${ARGN})
  if(NOT ARG_SLICES MATCHES "^[1-9][0-9]*$" OR NOT ARG_TESTS OR (ARG_BY_TEST AND ARG_BY_CASE)
     OR NOT (ARG_BY_TEST OR ARG_BY_CASE))
    message(FATAL_ERROR "vmferry_sliced_tests(${label}): SLICES N, BY_TEST or BY_CASE, and TESTS are needed")
  endif()
  set(variable VMFERRY_SLICES)
  if(ARG_BY_TEST)
    set(variable VMFERRY_SLICES_OF_TESTS)
  endif()
  set_property(TEST ${ARG_TESTS} PROPERTY LABELS ${label})
  set_property(TEST ${ARG_TESTS} APPEND PROPERTY ENVIRONMENT ${variable}=${ARG_SLICES})
endfunction()
