//! The guests' kernel: Debian's cloud kernel with its modules, and a `vfio.ko` that has no-IOMMU support.
//!
//! Packages are downloaded and unpacked into the cache; nothing is installed, nothing on the host boots another kernel. Debian
//! builds VFIO without CONFIG_VFIO_NOIOMMU, so that one module is built from linux-source with the option set.

use crate::error::{Attempt, Error, Result};
use crate::process::run;
use crate::{digest, install};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that always depends on the newest cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Debian 12's kernel series: part of the names of the packages that do not carry the full version.
const SERIES: &str = "6.1";
/// The sources of vfio.ko in that series.
const VFIO_SOURCES: [&str; 4] = ["vfio_main.c", "container.c", "iova_bitmap.c", "vfio.h"];
/// From drivers/vfio/Makefile, without vfio_virqfd (a module of its own) and with the option.
const VFIO_MAKEFILE: &str = "obj-m := vfio.o\n\
    vfio-y := vfio_main.o iova_bitmap.o container.o\n\
    ccflags-y := -DCONFIG_VFIO_NOIOMMU=1\n";
/// Part of the cache key: raise it when this file makes something else of the same packages.
const RECIPE_VERSION: &str = "1";

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    directory: PathBuf,
    release: String,
    /// Which modules each module needs, from modules.dep: paths relative to [`Kernel::modules`].
    dependencies: HashMap<String, Vec<String>>,
}

impl Kernel {
    /// Takes the kernel from the cache, or makes it.
    pub(crate) fn obtain(cache: &Path) -> Result<Kernel> {
        let release = newest_release()?;
        let packages = packages(&release);
        let uris = run(Command::new("apt-get").args(["download", "--print-uris"]).args(&packages))?;
        let key = digest::hex(format!("{RECIPE_VERSION}\n{uris}").as_bytes());
        let directory = cache.join(format!("kernel-{}", &key[..16]));
        if !directory.exists() {
            install::ensure(install::KERNEL_BUILD)?;
            eprintln!("  downloading the guests' kernel {release} (180 MB, once)");
            // Made beside the final name and renamed: a half-made kernel is never taken for a whole one.
            let scratch = tempfile::Builder::new().prefix("kernel-partial-").tempdir_in(cache);
            let scratch = scratch.attempt(|| format!("make a directory in {}", cache.display()))?;
            make(scratch.path(), &release, &packages)?;
            fs::rename(scratch.path().join("out"), &directory)
                .attempt(|| format!("put the kernel at {}", directory.display()))?;
        }
        let dependencies = read_dependencies(&directory.join("modules/modules.dep"))?;
        Ok(Kernel { directory, release, dependencies })
    }

    /// What `uname -r` says in it.
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    /// The kernel image.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// The vfio.ko that has no-IOMMU support.
    pub(crate) fn noiommu_vfio(&self) -> PathBuf {
        self.directory.join("vfio-noiommu.ko")
    }

    /// The directory that module paths are relative to.
    pub(crate) fn modules(&self) -> PathBuf {
        self.directory.join("modules")
    }

    /// The named modules and all that they need, in an order in which they can be loaded.
    pub(crate) fn load_order(&self, names: &[&str]) -> Result<Vec<String>> {
        let mut order: Vec<String> = Vec::new();
        for name in names {
            let file = format!("/{name}.ko");
            let module = self.dependencies.iter().find(|(path, _)| path.ends_with(&file));
            let (path, needs) =
                module.ok_or_else(|| Error::Expectation(format!("the kernel has no module {name}")))?;
            // modules.dep names the deepest dependency last.
            for module in needs.iter().rev().chain([path]) {
                if !order.contains(module) {
                    order.push(module.clone());
                }
            }
        }
        Ok(order)
    }
}

/// What the meta package depends on: "6.1.0-56-cloud-amd64".
fn newest_release() -> Result<String> {
    let query = || run(Command::new("apt-cache").args(["depends", META_PACKAGE]));
    let mut answer = query().unwrap_or_default();
    if !answer.contains("linux-image-") {
        install::update_package_lists()?;
        answer = query()?;
    }
    let dependency = answer.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    dependency.map(str::to_owned).ok_or_else(|| Error::Missing {
        what: format!("the Debian package {META_PACKAGE}"),
        remedy: "the VM tests need the package lists of Debian 12 for amd64 (apt-get update)".to_owned(),
    })
}

fn packages(release: &str) -> Vec<String> {
    let abi = release.trim_end_matches("-cloud-amd64");
    vec![
        format!("linux-image-{release}"),
        format!("linux-headers-{release}"),
        format!("linux-headers-{abi}-common"),
        format!("linux-kbuild-{SERIES}"),
        format!("linux-source-{SERIES}"),
    ]
}

fn make(scratch: &Path, release: &str, packages: &[String]) -> Result<()> {
    run(Command::new("apt-get").arg("-q").arg("download").args(packages).current_dir(scratch))?;
    let unpacked = scratch.join("root");
    for package in packages_in(scratch)? {
        run(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    }
    run(Command::new("/sbin/depmod").arg("-b").arg(&unpacked).arg(release))?;
    let vfio = build_noiommu_vfio(scratch, &unpacked, release)?;

    let out = scratch.join("out");
    fs::create_dir(&out).attempt(|| format!("make {}", out.display()))?;
    for (from, to) in [
        (unpacked.join(format!("boot/vmlinuz-{release}")), "vmlinuz"),
        (unpacked.join(format!("lib/modules/{release}")), "modules"),
        (vfio, "vfio-noiommu.ko"),
    ] {
        fs::rename(&from, out.join(to)).attempt(|| format!("keep {}", from.display()))?;
    }
    Ok(())
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(directory).attempt(|| format!("list {}", directory.display()))?;
    let files = listing.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    Ok(files.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

fn build_noiommu_vfio(scratch: &Path, unpacked: &Path, release: &str) -> Result<PathBuf> {
    let sources = unpacked.join("usr/src");
    let archive = sources.join(format!("linux-source-{SERIES}.tar.xz"));
    let members = VFIO_SOURCES.map(|file| format!("linux-source-{SERIES}/drivers/vfio/{file}"));
    let build = scratch.join("vfio");
    fs::create_dir(&build).attempt(|| format!("make {}", build.display()))?;
    run(Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .args(["--strip-components=3", "-C"])
        .arg(&build)
        .args(members))?;
    fs::write(build.join("Makefile"), VFIO_MAKEFILE)
        .attempt(|| "write the Makefile of vfio.ko".to_owned())?;

    // The headers include their common half by its installed path; here it lies in the cache.
    let headers = sources.join(format!("linux-headers-{release}"));
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).attempt(|| format!("read {}", makefile.display()))?;
    let text = text.replace("/usr/src/", &format!("{}/", sources.display()));
    fs::write(&makefile, text).attempt(|| format!("write {}", makefile.display()))?;
    let module_directory = format!("M={}", build.display());
    run(Command::new("make").arg("-C").arg(&headers).arg(module_directory).arg("modules"))?;
    let module = build.join("vfio.ko");
    run(Command::new("strip").arg("--strip-debug").arg(&module))?;
    Ok(module)
}

/// Lines of modules.dep: "kernel/a.ko: kernel/b.ko kernel/c.ko".
fn read_dependencies(path: &Path) -> Result<HashMap<String, Vec<String>>> {
    let text = fs::read_to_string(path).attempt(|| format!("read {}", path.display()))?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines
        .map(|(module, needs)| (module.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        .collect())
}
