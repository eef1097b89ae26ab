//! Devices as the worker sees them: something that can be brought up (again), polled, waited for, and closed.

mod pci;
mod software;
mod vfio;
mod vhost_user;

use std::os::fd::BorrowedFd;
use std::path::Path;

use netd_ipc::{DeviceKind, PollMode};
use netd_vfio::{Bdf, STATE_DIRECTORY, Sysfs};
use netd_virtqueue::{NetDevice, Switches, VhostUserRole};

use crate::config;

pub use software::Software;
pub use vfio::{Place, Vfio};
pub use vhost_user::Backend as VhostUser;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PCI function.
    #[error(transparent)]
    Vfio(#[from] netd_vfio::Error),
    /// The virtio device.
    #[error(transparent)]
    Virtio(#[from] netd_virtqueue::Error),
    /// The software device.
    #[error(transparent)]
    Software(#[from] netd_softdev::Error),
    /// No descriptor for its interrupts, or for its end.
    #[error("no eventfd for what the function has to tell")]
    Eventfd(#[source] std::io::Error),
    /// The kernel wants the function back.
    #[error("the function {0} is being taken away: it is unplugged, or its driver unbound")]
    Removed(Bdf),
    /// No randomness for an address.
    #[error("the system's random generator failed")]
    Random,
}

impl From<netd_virtqueue::Fault> for Error {
    fn from(fault: netd_virtqueue::Fault) -> Self {
        Error::Virtio(fault.into())
    }
}

/// What carries the frames.
pub enum Backend {
    /// A PCI function.
    Vfio(Vfio),
    /// A PCI function that was let go, to be opened again when it is back.
    Absent(Place),
    /// A software device in this process.
    Software(Box<Software>),
    /// A device in another process.
    VhostUser(Box<VhostUser>),
}

impl Backend {
    /// Opens the configured device; it is brought up separately, and can be again and again. One that is to be polled may lack an
    /// interrupt; `features` are those to leave alone.
    ///
    /// # Errors
    ///
    /// When the device is not there, not ours to take, or its memory is missing.
    pub fn open(
        device: &config::Device,
        features: Switches,
        hugetlbfs: &Path,
        poll: PollMode,
    ) -> Result<Self, Error> {
        Ok(match device {
            config::Device::Vfio { function } => {
                let function = function.resolve(&Sysfs::system(), Path::new(STATE_DIRECTORY))?;
                let (hugetlbfs, polled) = (hugetlbfs.to_owned(), poll == PollMode::Busy);
                let place = Place { function, switches: features, hugetlbfs, polled, opened: 0 };
                Backend::Vfio(Vfio::open(place)?)
            }
            config::Device::Software { link, mac, mtu } => {
                Backend::Software(Box::new(Software::open(link, *mac, *mtu, features)?))
            }
            config::Device::VhostUser(device) => {
                Backend::VhostUser(Box::new(VhostUser::open(device, features)?))
            }
        })
    }

    /// Initialises the device and its driver. A driver from before must be gone.
    ///
    /// # Errors
    ///
    /// When the device does not come up; it is reset then.
    pub fn bring_up(&mut self) -> Result<NetDevice, Error> {
        match self {
            Backend::Vfio(vfio) => vfio.bring_up(),
            Backend::Absent(place) => {
                let mut vfio = Vfio::open(place.clone())?;
                let driver = vfio.bring_up();
                *self = Backend::Vfio(vfio);
                driver
            }
            Backend::Software(software) => software.bring_up(),
            Backend::VhostUser(vhost_user) => vhost_user.bring_up(),
        }
    }

    /// Gives a device without a processor of its own its turn. Returns how many frames it moved.
    ///
    /// # Errors
    ///
    /// When the driver broke the protocol: the device stops until it is reset.
    pub fn service(&mut self) -> Result<usize, Error> {
        match self {
            Backend::Vfio(_) | Backend::Absent(_) | Backend::VhostUser(_) => Ok(0),
            Backend::Software(software) => software.service(),
        }
    }

    /// What to wait for to learn of received frames, with a number above 0 that changes when the descriptor does.
    pub fn descriptor(&self) -> Option<(BorrowedFd<'_>, u64)> {
        match self {
            Backend::Vfio(vfio) => vfio.descriptor(),
            Backend::Absent(_) => None,
            Backend::Software(software) => software.descriptor(),
            Backend::VhostUser(vhost_user) => vhost_user.descriptor(),
        }
    }

    /// What becomes readable when the kernel wants the device back, numbered as [`descriptor`](Self::descriptor) is.
    pub fn removal(&self) -> Option<(BorrowedFd<'_>, u64)> {
        match self {
            Backend::Vfio(vfio) => Some(vfio.removal()),
            Backend::Absent(_) | Backend::Software(_) | Backend::VhostUser(_) => None,
        }
    }

    /// Closes a function that the kernel wants back; it is opened again when it is brought up. The driver must be gone.
    ///
    /// # Errors
    ///
    /// When the function or its memory could not be let go in order. It is closed in any case.
    pub fn let_go(&mut self) -> Result<(), Error> {
        let Backend::Vfio(vfio) = self else { return Ok(()) };
        let absent = Backend::Absent(vfio.place());
        std::mem::replace(self, absent).close()
    }

    /// Prepares the device to wake a worker that sleeps. Returns whether it can.
    ///
    /// # Errors
    ///
    /// When the system does not let its interrupts through.
    pub fn prepare_to_wake(&mut self) -> Result<bool, Error> {
        match self {
            Backend::Vfio(vfio) => vfio.unmask(),
            Backend::Absent(_) | Backend::Software(_) | Backend::VhostUser(_) => Ok(true),
        }
    }

    /// Whether the other side is one that comes to us, so that its absence at the start is no mistake.
    pub fn may_come_later(&self) -> bool {
        matches!(self, Backend::VhostUser(vhost_user) if vhost_user.device().role == VhostUserRole::Server)
    }

    /// Whether the other side has come, so that bringing the device up need not wait any longer.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Backend::VhostUser(vhost_user) if vhost_user.is_awaited())
    }

    /// Closes the device and gives its memory back. The driver must be gone, and have confirmed that the device stopped.
    ///
    /// # Errors
    ///
    /// When the function or its memory could not be let go in order.
    pub fn close(self) -> Result<(), Error> {
        match self {
            Backend::Vfio(vfio) => vfio.close(),
            Backend::Absent(_) | Backend::Software(_) | Backend::VhostUser(_) => Ok(()),
        }
    }

    /// What kind of device it is.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Backend::Vfio(_) | Backend::Absent(_) => DeviceKind::Vfio,
            Backend::Software(_) => DeviceKind::Software,
            Backend::VhostUser(_) => DeviceKind::VhostUser,
        }
    }

    /// How many interrupts it used so far; none for a device that never uses any.
    pub fn interrupts(&mut self) -> Option<u64> {
        match self {
            Backend::Vfio(vfio) => vfio.interrupts(),
            Backend::Absent(_) | Backend::Software(_) | Backend::VhostUser(_) => None,
        }
    }

    /// The vhost-user backend, if it is one.
    pub fn vhost_user(&self) -> Option<&VhostUser> {
        match self {
            Backend::VhostUser(vhost_user) => Some(vhost_user),
            Backend::Vfio(_) | Backend::Absent(_) | Backend::Software(_) => None,
        }
    }

    /// The PCI function below, if there is one.
    pub fn function(&self) -> Option<&Vfio> {
        match self {
            Backend::Vfio(vfio) => Some(vfio),
            Backend::Absent(_) | Backend::Software(_) | Backend::VhostUser(_) => None,
        }
    }
}

/// A unicast address of the locally administered kind (IEEE 802, 8.4), so that two daemons on one wire do not meet.
fn random_mac() -> Result<[u8; 6], Error> {
    let mut mac = [0; 6];
    getrandom::fill(&mut mac).map_err(|_| Error::Random)?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}
