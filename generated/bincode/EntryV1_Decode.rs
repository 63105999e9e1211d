impl < __Context > :: bincode :: Decode < __Context > for EntryV1
{
    fn decode < __D : :: bincode :: de :: Decoder < Context = __Context > >
    (decoder : & mut __D) ->core :: result :: Result < Self, :: bincode ::
    error :: DecodeError >
    {
        core :: result :: Result ::
        Ok(Self
        {
            id : :: bincode :: Decode :: decode(decoder) ?, epoch : :: bincode
            :: Decode :: decode(decoder) ?, seq : :: bincode :: Decode ::
            decode(decoder) ?, time : :: bincode :: Decode :: decode(decoder)
            ?, undo_end : :: bincode :: Decode :: decode(decoder) ?, kind : ::
            bincode :: Decode :: decode(decoder) ?, name : :: bincode ::
            Decode :: decode(decoder) ?,
        })
    }
} impl < '__de, __Context > :: bincode :: BorrowDecode < '__de, __Context >
for EntryV1
{
    fn borrow_decode < __D : :: bincode :: de :: BorrowDecoder < '__de,
    Context = __Context > > (decoder : & mut __D) ->core :: result :: Result <
    Self, :: bincode :: error :: DecodeError >
    {
        core :: result :: Result ::
        Ok(Self
        {
            id : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, epoch : :: bincode :: BorrowDecode ::<
            '_, __Context >:: borrow_decode(decoder) ?, seq : :: bincode ::
            BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?, time
            : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, undo_end : :: bincode :: BorrowDecode
            ::< '_, __Context >:: borrow_decode(decoder) ?, kind : :: bincode
            :: BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
            name : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?,
        })
    }
}