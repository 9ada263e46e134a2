# Four corrections for a build against the ROS 2 wheels from PyPI. With a ROS 2 distribution nothing here applies.

# 1. No setup file has put the prefix of the wheels on AMENT_PREFIX_PATH.
get_filename_component(wheels_prefix "${ament_cmake_DIR}/../../.." ABSOLUTE)
string(REPLACE ":" ";" prefixes "$ENV{AMENT_PREFIX_PATH}")
if(NOT wheels_prefix IN_LIST prefixes)
  list(APPEND prefixes "${wheels_prefix}")
  list(JOIN prefixes ":" prefixes)
  set(ENV{AMENT_PREFIX_PATH} "${prefixes}")
endif()

# 2. Their message targets name /opt/python/..., a folder of the machine that built the wheels.
# 3. NumPy's headers lie in the source tree if the virtual environment does, and must not be exported.
# CMake refuses both kinds of include folder.
function(mend_include_folders target)
  get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
  if(NOT folders)
    return()
  endif()
  set(mended "")
  foreach(folder IN LISTS folders)
    if(folder MATCHES "^/opt/python/" AND NOT EXISTS "${folder}")
      continue()
    endif()
    cmake_path(IS_PREFIX PROJECT_SOURCE_DIR "${folder}" in_source_tree)
    if(in_source_tree)
      set(folder "$<BUILD_INTERFACE:${folder}>")
    endif()
    list(APPEND mended "${folder}")
  endforeach()
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${mended}")
endfunction()

# 4. tools/install.sh compiles all sources of a target as one. The sources of two generators define the same names.
function(compile_sources_apart)
  foreach(generator generator_c typesupport_introspection_cpp)
    if(TARGET ${PROJECT_NAME}__rosidl_${generator})
      set_target_properties(${PROJECT_NAME}__rosidl_${generator} PROPERTIES UNITY_BUILD OFF)
    endif()
  endforeach()
endfunction()

function(mend_all_include_folders)
  get_directory_property(imported IMPORTED_TARGETS)
  get_directory_property(own BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS imported own)
    mend_include_folders(${target})
  endforeach()
endfunction()

cmake_language(DEFER CALL compile_sources_apart)
cmake_language(DEFER CALL mend_all_include_folders) # once every find_package has run
