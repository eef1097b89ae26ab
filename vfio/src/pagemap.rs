//! Physical addresses, from /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).

use crate::{DmaSegment, Error};

/// Bit 63: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// Bits 0 to 54: the page frame number; zero for readers without CAP_SYS_ADMIN.
const FRAME_NUMBER: u64 = (1 << 55) - 1;

/// The segments of a buffer whose huge pages have these pagemap entries, physically adjacent pages merged.
///
/// `entries` are those of the first small page of each huge page.
pub(crate) fn segments(
    entries: &[u64],
    huge_page_bytes: usize,
    page_bytes: usize,
) -> Result<Vec<DmaSegment>, Error> {
    let mut segments: Vec<DmaSegment> = Vec::new();
    for (index, &entry) in entries.iter().enumerate() {
        let offset = index * huge_page_bytes;
        let device_address = physical_address(entry, offset, page_bytes)?;
        match segments.last_mut() {
            Some(last) if last.device_address + last.len as u64 == device_address => {
                last.len += huge_page_bytes;
            }
            _ => segments.push(DmaSegment { offset, len: huge_page_bytes, device_address }),
        }
    }
    Ok(segments)
}

fn physical_address(entry: u64, offset: usize, page_bytes: usize) -> Result<u64, Error> {
    if entry & PRESENT == 0 {
        return Err(Error::PageNotPresent { offset, entry });
    }
    match entry & FRAME_NUMBER {
        0 => Err(Error::PhysicalAddressesHidden),
        frame => Ok(frame * page_bytes as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 4096;
    const HUGE: usize = 2 << 20;

    fn entry(address: u64) -> u64 {
        // Soft-dirty and file-page bits are set too, and must not matter.
        PRESENT | (1 << 61) | (1 << 55) | (address / PAGE as u64)
    }

    #[test]
    fn adjacent_pages_become_one_segment_and_others_do_not() {
        let entries = [0x4000_0000, 0x4020_0000, 0x4080_0000, 0x4060_0000].map(entry);
        let expected = [
            DmaSegment { offset: 0, len: 2 * HUGE, device_address: 0x4000_0000 },
            DmaSegment { offset: 2 * HUGE, len: HUGE, device_address: 0x4080_0000 },
            DmaSegment { offset: 3 * HUGE, len: HUGE, device_address: 0x4060_0000 },
        ];
        assert_eq!(segments(&entries, HUGE, PAGE).unwrap(), expected);
    }

    #[test]
    fn hidden_frame_number_is_reported_with_the_capability() {
        let error = segments(&[PRESENT | (1 << 61)], HUGE, PAGE).unwrap_err();
        assert!(matches!(error, Error::PhysicalAddressesHidden));
        assert!(error.to_string().contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn absent_page_is_reported_with_its_offset() {
        let error = segments(&[entry(0x4000_0000), 0], HUGE, PAGE).unwrap_err();
        assert!(matches!(error, Error::PageNotPresent { offset: HUGE, entry: 0 }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_page_keeps_its_address_whatever_the_order(frames in proptest::collection::vec(1u64..40, 1..64)) {
            let addresses: Vec<u64> = frames.iter().map(|frame| frame * HUGE as u64).collect();
            let entries: Vec<u64> = addresses.iter().copied().map(entry).collect();
            let segments = segments(&entries, HUGE, PAGE).unwrap();
            let mut next = 0;
            for segment in &segments {
                prop_assert_eq!(segment.offset, next);
                for within in (0..segment.len).step_by(HUGE) {
                    let page = (segment.offset + within) / HUGE;
                    prop_assert_eq!(segment.device_address + within as u64, addresses[page]);
                }
                next += segment.len;
            }
            prop_assert_eq!(next, frames.len() * HUGE);
            for pair in segments.windows(2) {
                prop_assert_ne!(pair[0].device_address + pair[0].len as u64, pair[1].device_address);
            }
        }
    }
}
