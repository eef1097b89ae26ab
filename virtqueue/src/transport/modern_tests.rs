//! Capability discovery on a fake function.

use std::sync::Mutex;

use super::*;

/// Configuration space, and BAR 4 with 4 KiB of plain memory.
struct Fake {
    config: [u8; 256],
    bar: Mutex<Vec<u8>>,
}

impl Fake {
    fn with(capabilities: &[(u8, u8, u32, u32, u32)]) -> Arc<dyn PciFunction> {
        let mut config = [0; 256];
        config[usize::from(PCI_STATUS)] = PCI_STATUS_CAP_LIST as u8;
        config[usize::from(PCI_CAPABILITY_LIST)] = if capabilities.is_empty() { 0 } else { 0x40 };
        for (number, (kind, bar, offset, len, extra)) in capabilities.iter().enumerate() {
            let at = 0x40 + 20 * number;
            let next = if number + 1 == capabilities.len() { 0 } else { at as u8 + 20 };
            config[at..at + 5].copy_from_slice(&[PCI_CAP_ID_VENDOR, next, 20, *kind, *bar]);
            config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
            config[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
            config[at + 16..at + 20].copy_from_slice(&extra.to_le_bytes());
        }
        Arc::new(Fake { config, bar: Mutex::new(vec![0; 4096]) })
    }

    fn read<const N: usize>(&self, offset: u64) -> io::Result<[u8; N]> {
        let bar = self.bar.lock().unwrap();
        Ok(bar[offset as usize..offset as usize + N].try_into().unwrap())
    }

    fn write<const N: usize>(&self, offset: u64, value: [u8; N]) -> io::Result<()> {
        self.bar.lock().unwrap()[offset as usize..offset as usize + N].copy_from_slice(&value);
        Ok(())
    }
}

impl PciFunction for Fake {
    fn config_read(&self, offset: u16, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::from(offset);
        buffer.copy_from_slice(self.config.get(at..at + buffer.len()).ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }
    fn bar_len(&self, bar: u8) -> u64 {
        if bar == 4 { 4096 } else { 0 }
    }
    fn read_u8(&self, _: u8, offset: u64) -> io::Result<u8> {
        self.read(offset).map(u8::from_le_bytes)
    }
    fn read_u16(&self, _: u8, offset: u64) -> io::Result<u16> {
        self.read(offset).map(u16::from_le_bytes)
    }
    fn read_u32(&self, _: u8, offset: u64) -> io::Result<u32> {
        self.read(offset).map(u32::from_le_bytes)
    }
    fn write_u8(&self, _: u8, offset: u64, value: u8) -> io::Result<()> {
        self.write(offset, value.to_le_bytes())
    }
    fn write_u16(&self, _: u8, offset: u64, value: u16) -> io::Result<()> {
        self.write(offset, value.to_le_bytes())
    }
    fn write_u32(&self, _: u8, offset: u64, value: u32) -> io::Result<()> {
        self.write(offset, value.to_le_bytes())
    }
}

const COMMON: (u8, u8, u32, u32, u32) = (CAP_COMMON, 4, 0, 64, 0);
const NOTIFY: (u8, u8, u32, u32, u32) = (CAP_NOTIFY, 4, 1024, 8, 4);
const DEVICE: (u8, u8, u32, u32, u32) = (CAP_DEVICE, 4, 512, 16, 0);

#[test]
fn function_without_capabilities_is_not_modern() {
    assert!(ModernPci::discover(Fake::with(&[])).unwrap().is_none());
}

#[test]
fn unknown_types_and_bars_outside_are_passed_over() {
    let outside = (CAP_COMMON, 4, 4090, 64, 0);
    let reserved = (CAP_COMMON, 6, 0, 64, 0);
    let unknown = (9, 4, 0, 4096, 0);
    let found =
        ModernPci::discover(Fake::with(&[unknown, reserved, outside, COMMON, NOTIFY])).unwrap().unwrap();
    assert_eq!((found.common.bar, found.common.offset), (4, 0));
}

#[test]
fn common_without_notify_is_refused() {
    assert!(matches!(ModernPci::discover(Fake::with(&[COMMON])), Err(Error::Capabilities(_))));
    let short = (CAP_COMMON, 4, 0, 40, 0);
    assert!(matches!(ModernPci::discover(Fake::with(&[short, NOTIFY])), Err(Error::Capabilities(_))));
}

#[test]
fn doorbell_outside_its_structure_is_refused() {
    let function = Fake::with(&[COMMON, NOTIFY]);
    let transport = ModernPci::discover(Arc::clone(&function)).unwrap().unwrap();
    function.write_u16(4, common::QUEUE_NOTIFY_OFF, 1).unwrap();
    transport.doorbell(0).unwrap().ring(Position(0)).unwrap();
    function.write_u16(4, common::QUEUE_NOTIFY_OFF, 2).unwrap();
    assert!(matches!(transport.doorbell(0), Err(Error::Capabilities(_))));
}

#[test]
fn configuration_beyond_its_structure_is_refused() {
    let transport = ModernPci::discover(Fake::with(&[COMMON, NOTIFY, DEVICE])).unwrap().unwrap();
    assert!(transport.read_config(10, &mut [0; 6]).is_ok());
    assert!(matches!(transport.read_config(11, &mut [0; 6]), Err(Error::Capabilities(_))));
}
