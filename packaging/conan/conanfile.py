"""Conan 2 recipe. From a checkout: conan create packaging/conan"""
import os

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy


class DropinConan(ConanFile):
    name = "dropin"
    version = "0.1.0"
    license = "Apache-2.0"
    description = "Neural-network components for C++20 that swap in for a standard one by name"
    topics = ("deep-learning", "attention", "quantization", "simd")
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False], "tools": [True, False]}
    default_options = {"shared": False, "fPIC": True, "tools": False}
    package_type = "library"

    def export_sources(self):
        root = os.path.join(self.recipe_folder, "..", "..")
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "src/*", "kernels/*"):
            copy(self, pattern, root, self.export_sources_folder)

    def requirements(self):
        for package in ("eigen/3.4.0", "fmt/10.2.1", "highway/1.2.0", "nlohmann_json/3.11.3", "onednn/3.4.2", "zlib/[>=1.2.11 <2]"):
            self.requires(package)
        if self.options.tools:
            self.requires("cli11/2.4.2")

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({"DROPIN_BUILD_SHARED": bool(self.options.shared), "DROPIN_BUILD_CLI": bool(self.options.tools), "DROPIN_BUILD_TESTS": False,
                                          "DROPIN_BUILD_EXAMPLES": False, "DROPIN_INSTALL": True, "DROPIN_CUDA": "OFF"})
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.libs = ["dropin"]
        self.cpp_info.set_property("cmake_file_name", "dropin")
        self.cpp_info.set_property("cmake_target_name", "dropin::dropin")
        self.cpp_info.set_property("pkg_config_name", "dropin")
        if self.settings.os == "Linux":
            self.cpp_info.system_libs = ["dl", "pthread"]
