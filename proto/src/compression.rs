//! Compression of a column's bytes. LZ4 (pure Rust) costs little and is for fast networks, zstd at its
//! lowest level packs better. Sizes are never taken from the bytes: whoever reads knows how much there
//! must be, so a message cannot make its reader allocate more.

use bytes::Bytes;
use zstd::bulk;

use crate::replay::v1::{Compression, Tensor};

const ZSTD_LEVEL: i32 = 1;

/// Compresses those columns that get smaller.
pub fn compress(columns: &mut [Tensor], compression: Compression) {
    for column in columns {
        let compressed = match compression {
            Compression::None => return,
            Compression::Lz4 => lz4_flex::block::compress(&column.data),
            // Fails only for want of memory or room, and then the column stays as it is.
            Compression::Zstd => match bulk::compress(&column.data, ZSTD_LEVEL) {
                Ok(compressed) => compressed,
                Err(_) => continue,
            },
        };
        if compressed.len() < column.data.len() {
            column.data = compressed.into();
            column.compression = compression.into();
        }
    }
}

/// The `len` bytes that `data` holds; the error is what was expected and what was got.
pub(crate) fn decompress(
    data: Bytes,
    compression: i32,
    len: usize,
) -> Result<Bytes, (String, String)> {
    let decompressed = match Compression::try_from(compression) {
        Ok(Compression::None) => return Ok(data),
        Ok(Compression::Lz4) => {
            lz4_flex::block::decompress(&data, len).map_err(|error| error.to_string())
        }
        Ok(Compression::Zstd) => bulk::decompress(&data, len).map_err(|error| error.to_string()),
        Err(_) => {
            let expected = "a known compression".to_owned();
            return Err((expected, format!("compression {compression}")));
        }
    };
    let expected = || format!("{len} compressed bytes");
    match decompressed {
        Ok(bytes) if bytes.len() == len => Ok(bytes.into()),
        Ok(bytes) => Err((expected(), format!("{} bytes", bytes.len()))),
        Err(error) => Err((expected(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(data: Vec<u8>) -> Tensor {
        Tensor {
            data: data.into(),
            ..Tensor::default()
        }
    }

    #[test]
    fn what_shrinks_is_compressed_and_comes_back() {
        let smooth = vec![7; 10_000];
        let noise: Vec<u8> = (0..10_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut columns = [tensor(smooth.clone()), tensor(noise[..100].to_vec())];
            compress(&mut columns, compression);
            let [smaller, same] = columns;
            assert!(smaller.data.len() < 200);
            assert_eq!(smaller.compression, i32::from(compression));
            let back = decompress(smaller.data, smaller.compression, 10_000);
            assert_eq!(back.unwrap(), smooth);
            assert_eq!(same.compression, i32::from(Compression::None));
            assert_eq!(same.data, noise[..100]);
        }
    }

    #[test]
    fn other_lengths_and_noise_are_refused() {
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut columns = [tensor(vec![7; 10_000])];
            compress(&mut columns, compression);
            let [Tensor { data, .. }] = columns;
            for len in [0, 9_999, 10_001] {
                assert!(decompress(data.clone(), compression.into(), len).is_err());
            }
            for end in 0..data.len() {
                let cut = decompress(data.slice(..end), compression.into(), 10_000);
                assert!(cut.is_err(), "{end}");
            }
            let noise = Bytes::from_static(b"neither of the two, not at all");
            assert!(decompress(noise, compression.into(), 10_000).is_err());
        }
        let unknown = decompress(Bytes::new(), 9, 0).unwrap_err();
        assert_eq!(unknown.1, "compression 9");
    }
}
