//! Writes a small TorchScript program as the archive that libtorch loads.
//!
//! tch exports the operators of ATen. Other registered operators, such as oneDNN's fused ones, can be called only from
//! a TorchScript module. Its format is a zip file with uncompressed entries.

/// The archive of a module without parameters. `code` must define the class `__torch__.Program`.
pub(super) fn archive(code: &str) -> Vec<u8> {
    let mut zip = StoredZip::default();
    // Pickled: an object of class `__torch__.Program` whose only attribute is `training = False`.
    let object = b"\x80\x02c__torch__\nProgram\n)\x81}(X\x08\x00\x00\x00training\x89ub.";
    zip.add("program/data.pkl", object);
    zip.add("program/code/__torch__.py", code.as_bytes());
    // Pickled: an empty tuple.
    zip.add("program/constants.pkl", b"\x80\x02).");
    zip.add("program/version", b"3\n");
    zip.finish()
}

/// A zip file whose entries are not compressed.
#[derive(Default)]
struct StoredZip {
    entries: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl StoredZip {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let offset = self.entries.len() as u32;
        let mut common = Vec::new();
        // Version needed, flags, method (stored), time, date (1 January 1980).
        for field in [20_u16, 0, 0, 0, 33] {
            common.extend(field.to_le_bytes());
        }
        for field in [crc32(bytes), bytes.len() as u32, bytes.len() as u32] {
            common.extend(field.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        common.extend(0_u16.to_le_bytes());

        self.entries.extend(b"PK\x03\x04");
        self.entries.extend(&common);
        self.entries.extend(name.as_bytes());
        self.entries.extend(bytes);

        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(&common);
        // Comment length, disk number, internal and external attributes.
        self.directory.extend([0; 10]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.count += 1;
    }

    fn finish(self) -> Vec<u8> {
        let mut zip = self.entries;
        let start = zip.len() as u32;
        zip.extend(&self.directory);
        zip.extend(b"PK\x05\x06\x00\x00\x00\x00");
        zip.extend(self.count.to_le_bytes());
        zip.extend(self.count.to_le_bytes());
        zip.extend((self.directory.len() as u32).to_le_bytes());
        zip.extend(start.to_le_bytes());
        zip.extend([0; 2]);
        zip
    }
}

/// The CRC-32 of zip, computed bit by bit, which is fast enough for a few kilobytes.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}
